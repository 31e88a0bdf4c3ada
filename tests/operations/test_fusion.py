"""Deltas put together by each method, against the plain formula on whole tensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from fusion_formulas import fused, ulps
from models import State, cast, near, random_state, read_model, same_bits, write_model

from pipeline import Difference, apply, compute
from pipeline.errors import Mismatch, UsageError
from pipeline.operations.freshness import apply_freshness
from pipeline.operations.fusion.methods import METHODS as METHODS_KNOWN
from pipeline.operations.fusion.methods import MethodName
from pipeline.operations.kernels.survey import HighCounts
from pipeline.operations.outputs.report import ANOTHER_BASE, SAME_BASE, ApplyReport
from pipeline.progress import silent
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.fusion_select import MOST_OTHERS

EMBEDDING = "model.embed_tokens.weight"
FAMILY = Path(__file__).parents[2] / "examples" / "family"
POSTS = 3
METHODS = {
    "ties": {"density": 0.3},
    "dare_linear": {"density": 0.4, "seed": 7},
    "dare_ties": {"density": 0.4, "seed": 7, "lambda_": 0.9},
    "della": {"density": 0.5, "epsilon": 0.2, "seed": 3},
    "breadcrumbs": {"density": 0.5, "gamma": 0.05},
    "slerp": {},
    "model_stock": {},
}
BY_ANGLES = ("slerp", "model_stock")  # whose sums may be rounded otherwise in another order


@dataclass(frozen=True)
class Models:
    """Folders of a base, of models trained from it, and of another base; and stored deltas."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def state(self, name: str) -> State:
        return read_model(self.folder / name)

    def deltas(self, number: int = POSTS) -> list[str | Difference]:
        """The last one is made on the way."""
        stored = [self.path(f"delta{n}.safetensors") for n in range(number - 1)]
        return [*stored, Difference(self.path("base"), self.path(f"post{number - 1}"))]

    def exact(self, name: str, number: int = POSTS) -> list[torch.Tensor]:
        """The deltas of one tensor."""
        base = self.state("base")[name].float()
        return [self.state(f"post{n}")[name].float() - base for n in range(number)]

    def apply(self, output: str, scales: tuple[float, ...], **options: Any) -> ApplyReport:
        pairs = list(zip(self.deltas(len(scales)), scales, strict=True))
        given: dict[str, Any] = {"workers": 1, "overwrite": True, **options}
        return apply(self.path("new"), pairs, self.path(output), **given)


def made(folder: Path, base: State, **config: object) -> Models:
    """Of a base: three fine-tunes with deltas, and a base that was trained on."""
    models = Models(folder)
    states = {"base": base, "new": near(base, 50, scale=3e-3)}
    states |= {f"post{n}": near(base, 60 + n, scale=2e-3 * (n + 1)) for n in range(POSTS)}
    for name, state in states.items():
        write_model(folder / name, cast(state), **config)
    for n in range(POSTS - 1):
        compute(models.path("base"), models.path(f"post{n}"), models.path(f"delta{n}.safetensors"))
    return models


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Its embedding has more than one chunk, and rows that go on from one to the next."""
    state = random_state(1, vocab=23_000, width=24, layers=1)
    assert state[EMBEDDING].numel() > CHUNK_ELEMENTS
    assert CHUNK_ELEMENTS % 24
    return made(tmp_path_factory.mktemp("llama"), state)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Models:
    state = random_state(2, layers=1)
    generator = torch.Generator().manual_seed(5)
    for name in ("gate", *(f"experts.{n}.{w}" for n in range(4) for w in ("w1", "w2", "w3"))):
        shape = (4, 16) if name == "gate" else (16, 32) if name.endswith("w2") else (32, 16)
        full = f"model.layers.0.block_sparse_moe.{name}.weight"
        state[full] = torch.randn(shape, generator=generator) * 0.02
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    return made(tmp_path_factory.mktemp("mixtral"), state, **config)


def scales_of(method: str) -> tuple[float, ...]:
    return {"slerp": (0.6, 0.3), "model_stock": (1.0, 1.0, 1.0)}.get(method, (1.0, 0.5, 0.8))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_method_gives_its_formula(method: str, kind: str, request: pytest.FixtureRequest) -> None:
    models: Models = request.getfixturevalue(kind)
    scales, given = scales_of(method), METHODS[method]
    report = models.apply(method, scales, method=method, **given)
    result, base = models.state(method), models.state("new")
    assert report.case == ANOTHER_BASE
    for name, tensor in result.items():
        deltas = models.exact(name, len(scales))
        wanted = fused(method, name, base[name], deltas, scales, **given)
        if method in BY_ANGLES:
            assert ulps(tensor, wanted).max() <= 1, name
        else:
            assert same_bits(tensor, wanted), name


@pytest.mark.parametrize("method", METHODS)
def test_workers_and_memory_change_no_bit(method: str, llama: Models) -> None:
    scales, given = scales_of(method), METHODS[method]
    one = llama.apply("one", scales, method=method, **given)
    many = llama.apply("many", scales, method=method, workers=3, **given)
    tight = llama.apply("tight", scales, method=method, memory="140MiB", **given)
    assert one.fingerprint == many.fingerprint == tight.fingerprint


def two_differences(folder: Path, base: State) -> tuple[Models, list[tuple[Difference, float]]]:
    """A base, two posts and a new base near it, in a folder; half of each post's difference."""
    states = {"base": base, "new": near(base, 2), "post0": near(base, 3), "post1": near(base, 4)}
    for name, state in states.items():
        write_model(folder / name, {key: value.to(base[key].dtype) for key, value in state.items()})
    models = Models(folder)
    return models, [(Difference(models.path("base"), models.path(f"post{n}")), 0.5) for n in range(2)]


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_thresholds_are_exact_where_magnitudes_are_too_many_to_be_kept(
    method: str, tmp_path: Path
) -> None:
    """Differences of float32 models: few have the same magnitude, so that all are counted again."""
    base = {"w": torch.randn(800, 800, generator=torch.Generator().manual_seed(1))}
    assert base["w"].numel() > CHUNK_ELEMENTS > MOST_OTHERS
    models, deltas = two_differences(tmp_path, base)
    apply(models.path("new"), deltas, models.path("x"), method=method, **METHODS[method])
    wanted = fused(
        method, "w", models.state("new")["w"], models.exact("w", 2), (0.5, 0.5), **METHODS[method]
    )
    assert same_bits(models.state("x")["w"], wanted)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_magnitudes_that_have_no_room_are_counted_again(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the largest tensor: time does. A tensor of one chunk is read once."""
    begun: list[str] = []
    base = {"large": torch.ones(CHUNK_ELEMENTS // 512 + 1, 512), "small": torch.ones(7, 5)}
    models, deltas = two_differences(tmp_path, cast(base))

    def progress(title: str, total: int) -> Any:
        begun.append(title)
        return silent(title, total)

    def run(name: str) -> ApplyReport:
        begun.clear()
        return apply(
            models.path("new"),
            deltas,
            models.path(name),
            method=method,
            progress=progress,
            **METHODS[method],
        )

    kept, walks = run("x"), len(begun)
    monkeypatch.setattr("pipeline.operations.kernels.survey.LIST_BYTES", 0)
    assert run("y").fingerprint == kept.fingerprint
    assert (walks, len(begun)) == (3, 4)


def test_a_tensor_may_have_more_elements_than_32_bits_count() -> None:
    """Experts that lie together have: 128 of 5120 x 16384."""
    most = np.iinfo(HighCounts(1, 1, 1).bins[0][0].dtype).max
    assert most >= 128 * 5120 * 16384


def test_a_row_that_goes_on_over_both_ends_of_a_chunk_is_ranked_whole(tmp_path: Path) -> None:
    """With chances of almost zero and one only the middle of a row of three is left to chance."""
    rows = torch.tensor([0.1, 0.2, 0.3]).repeat(3 * CHUNK_ELEMENTS // 3 + 1, 1)
    rows.view(-1)[3 * CHUNK_ELEMENTS - 2 : 3 * CHUNK_ELEMENTS] = torch.tensor([8.0, 9.0])
    base = write_model(tmp_path / "base", {"w": torch.zeros_like(rows)})
    post = write_model(tmp_path / "post", {"w": rows})
    given: dict[str, Any] = {"method": "della", "density": 0.5, "epsilon": 0.4999999}
    apply(str(base), [Difference(str(base), str(post))], str(tmp_path / "x"), **given)
    kept, order = read_model(tmp_path / "x")["w"] != 0, rows.argsort(dim=1)
    assert kept.gather(1, order[:, 2:]).all()
    assert not kept.gather(1, order[:, :1]).any()


def test_slerp_with_one_delta_goes_from_the_base_to_the_model_with_it(mixtral: Models) -> None:
    mixtral.apply("one", (0.3,), method="slerp")
    for name, tensor in mixtral.state("one").items():
        base = mixtral.state("new")[name]
        wanted = fused("slerp", name, base, mixtral.exact(name, 1), (0.3,))
        assert ulps(tensor, wanted).max() <= 1


def test_with_nothing_left_out_dare_is_the_sum(mixtral: Models) -> None:
    scales = (1.0, 0.5, 0.8)
    plain = mixtral.apply("plain", scales)
    dare = mixtral.apply("dare", scales, method="dare_linear", density=1.0)
    for name, tensor in mixtral.state("dare").items():
        assert ulps(tensor, mixtral.state("plain")[name]).max() <= 1
    assert (plain.fusion, dare.fusion) == (
        None,
        {"method": "dare_linear", "density": 1.0, "lambda": 1.0, "seed": 0},
    )


# -- chance -------------------------------------------------------------------------------------------


def test_dare_keeps_its_part_and_the_mean(llama: Models) -> None:
    density = 0.3
    llama.apply("dare", (1.0,), method="dare_linear", density=density, dtype="float32")
    base = llama.state("new")[EMBEDDING].float()
    delta = llama.exact(EMBEDDING, 1)[0]
    added = llama.state("dare")[EMBEDDING] - base
    changed = delta != 0
    count = int(changed.sum())
    rate = float((added[changed] != 0).double().mean())
    assert abs(rate - density) < 5 * (density * (1 - density) / count) ** 0.5
    spread = float((delta[changed].double().square().mean() * (1 - density) / density / count).sqrt())
    assert abs(float(added.double().mean() - delta.double().mean())) < 5 * spread
    assert float(added.double().abs().sum() / delta.double().abs().sum()) == pytest.approx(1, abs=1e-4)


def test_another_seed_keeps_other_elements(mixtral: Models) -> None:
    given: dict[str, Any] = {"method": "dare_ties", "density": 0.5}
    first = mixtral.apply("first", (1.0, 1.0), seed=1, **given)
    again = mixtral.apply("again", (1.0, 1.0), seed=1, **given)
    other = mixtral.apply("other", (1.0, 1.0), seed=2, **given)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_deltas_draw_apart(mixtral: Models) -> None:
    """The same delta twice is not thinned in the same places."""
    same = [mixtral.deltas()[0]] * 2
    apply(
        mixtral.path("new"),
        same,
        mixtral.path("twice"),
        method="dare_linear",
        density=0.5,
        overwrite=True,
    )
    base, result = mixtral.state("new")[EMBEDDING].float(), mixtral.state("twice")[EMBEDDING].float()
    delta = mixtral.exact(EMBEDDING, 1)[0]
    times = ((result - base) / delta)[delta.abs() > 1e-3]
    assert {round(float(t)) for t in times.flatten()} == {0, 2, 4}


# -- where --------------------------------------------------------------------------------------------


def test_skipped_tensors_keep_the_new_base_s_values(llama: Models) -> None:
    report = llama.apply("skipped", (1.0, 0.5), skip=["embed_tokens", "norm"])
    base, result = llama.state("new"), llama.state("skipped")
    left = {name for name in base if "embed_tokens" in name or "norm" in name}
    assert set(report.skipped) == left
    assert all(same_bits(result[name], base[name]) == (name in left) for name in base)


def test_only_names_what_is_added_to(llama: Models) -> None:
    llama.apply("only", (1.0,), method="ties", density=0.5, only=r"\.mlp\.", skip="norm")
    base, result = llama.state("new"), llama.state("only")
    assert {name for name in base if not same_bits(result[name], base[name])} == {
        name for name in base if ".mlp." in name
    }


@pytest.mark.parametrize("method", ["linear", "breadcrumbs"])
def test_a_tensor_s_own_scale_multiplies_what_it_gets(method: str, mixtral: Models) -> None:
    given: dict[str, Any] = {"method": method} | ({"density": 0.5} if method != "linear" else {})
    rules = ["layers:0-3=0.5", ("gate", 0.0)]
    mixtral.apply("own", (1.0, 0.5), dtype="float32", scale_for=rules, **given)
    mixtral.apply("whole", (1.0, 0.5), dtype="float32", **given)
    base, own, whole = (mixtral.state(name) for name in ("new", "own", "whole"))
    for name in base:
        factor = 0.0 if "gate" in name else 0.5 if ".layers." in name else 1.0
        wanted = base[name].float() + factor * (whole[name] - base[name].float())
        assert torch.allclose(own[name], wanted, rtol=0, atol=1e-7), name


def test_same_base_is_restored_only_by_the_whole_sum(mixtral: Models) -> None:
    delta = mixtral.deltas()[:1]

    def case(**options: Any) -> str:
        return apply(mixtral.path("base"), delta, mixtral.path("x"), overwrite=True, **options).case

    assert case() == case(method="linear") == SAME_BASE
    assert case(skip="norm") == case(scale_for=["norm=1.5"]) == case(lambda_=0.5) == ANOTHER_BASE
    assert case(method="ties") == ANOTHER_BASE


def test_patterns_are_of_the_result_s_names(tmp_path: Path) -> None:
    """A head that is tied to the new base's embedding is a tensor of its own once a post has one."""
    tied = random_state(1)
    own = tied | {"lm_head.weight": torch.ones(50, 16)}
    states = {"new": tied, "base": own, "post": near(own, 2)}
    for name, state in states.items():
        write_model(tmp_path / name, state, tie_word_embeddings=name == "new")
    delta = Difference(str(tmp_path / "base"), str(tmp_path / "post"))
    report = apply(str(tmp_path / "new"), [delta], str(tmp_path / "x"), skip="lm_head")
    result = read_model(tmp_path / "x")
    assert report.skipped == ("lm_head.weight",)
    assert same_bits(result["lm_head.weight"], tied[EMBEDDING])
    assert not same_bits(result[EMBEDDING], tied[EMBEDDING])


# -- a vocabulary that grew -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"method": "ties", "density": 0.2}, {"skip": "embed_tokens"}])
def test_rows_that_only_post_has_come_whole(options: dict[str, Any], tmp_path: Path) -> None:
    post = FAMILY / "post-v1"
    apply(
        str(FAMILY / "base-v2"),
        [Difference(str(FAMILY / "base-v1"), str(post))],
        str(tmp_path / "x"),
        **options,
    )
    result, base = read_model(tmp_path / "x")[EMBEDDING], read_model(FAMILY / "base-v2")[EMBEDDING]
    assert same_bits(result[len(base) :], read_model(post)[EMBEDDING][len(base) :])
    assert same_bits(result[: len(base)], base) == ("skip" in options)


def test_new_rows_of_float64_come_whole_to_what_is_skipped(tmp_path: Path) -> None:
    base = {name: tensor.double() + 1e-9 for name, tensor in random_state(1).items()}
    grown = {n: t.double() for n, t in near(base, 2, vocab=53).items()}
    paths = [str(write_model(tmp_path / n, s)) for n, s in (("base", base), ("post", grown))]
    report = apply(paths[0], [Difference(*paths)], str(tmp_path / "x"), scale=0.5, skip="embed")
    result = read_model(tmp_path / "x")[EMBEDDING]
    assert report.skipped == (EMBEDDING,)
    assert same_bits(result, torch.cat([base[EMBEDDING], grown[EMBEDDING][50:]]))


def test_new_rows_of_no_float_can_t_be_skipped(tmp_path: Path) -> None:
    base, post = random_state(1), near(random_state(1), 2, vocab=53)
    for state in (base, post):
        state["table"] = torch.ones(len(state[EMBEDDING]), 2, dtype=torch.int32)
    paths = [str(write_model(tmp_path / n, s)) for n, s in (("base", base), ("post", post))]
    with pytest.raises(Mismatch, match="table gets more rows") as error:
        apply(paths[0], [Difference(*paths)], str(tmp_path / "x"), scale=0.5, skip="table")
    assert error.value.hint == "add to them: see --only and --skip"


def test_the_method_counts_only_rows_that_differ_from_a_base(tmp_path: Path) -> None:
    delta = Difference(str(FAMILY / "base-v1"), str(FAMILY / "post-v1"))
    apply(str(FAMILY / "base-v2"), [delta], str(tmp_path / "x"), method="ties", density=0.2)
    result, base = read_model(tmp_path / "x"), read_model(FAMILY / "base-v2")
    old, post = read_model(FAMILY / "base-v1"), read_model(FAMILY / "post-v1")
    for name, tensor in base.items():
        change = post[name][: len(tensor)].float() - old[name].float()
        wanted = fused("ties", name, tensor, [change], (1.0,), density=0.2)
        assert same_bits(result[name][: len(tensor)], wanted), name


@pytest.mark.parametrize("method", BY_ANGLES)
def test_methods_of_angles_refuse_a_vocabulary_that_grew(method: str, tmp_path: Path) -> None:
    delta = Difference(str(FAMILY / "base-v1"), str(FAMILY / "post-v1"))
    wanted = [(delta, 0.5)] * (2 if method == "model_stock" else 1)
    with pytest.raises(Mismatch, match=EMBEDDING):
        apply(str(FAMILY / "base-v2"), wanted, str(tmp_path / "x"), method=method)
    assert not (tmp_path / "x").exists()


# -- what is said, and what is refused ------------------------------------------------------------------


def test_provenance_and_card_say_how_it_was_made_to_the_last_digit(mixtral: Models) -> None:
    given: dict[str, Any] = {"method": "ties", "density": 1 / 3, "skip": "gate"}
    mixtral.apply("told", (1.0, 0.1234567891), scale_for=["mlp|w1=0.7654321987"], **given)
    wanted = {
        "method": "ties",
        "density": 1 / 3,
        "lambda": 1.0,
        "skip": ["gate"],
        "scale_for": [["mlp|w1", 0.7654321987]],
    }
    assert json.loads((mixtral.folder / "told/paramdelta.json").read_text())["fusion"] == wanted
    card = (mixtral.folder / "told/README.md").read_text()
    assert "    result = ties(base, 1 · ∆1, 0.1234567891 · ∆2)\n" in card
    assert "- density: 0.3333333333333333\n- lambda: 1\n" in card
    assert "- skip: `gate`\n- scale for: `mlp|w1` × 0.7654321987\n" in card


def test_what_provenance_says_makes_the_same_result_again(mixtral: Models) -> None:
    given: dict[str, Any] = {"method": "della", "density": 0.5, "seed": 9, "skip": "gate"}
    given |= {"take_config": ["base:model_type"], "dtype": "float16", "scale_for": "layers:0=0.7"}
    made = mixtral.apply("first", (1.0, 0.3), **given)
    said = json.loads((mixtral.folder / "first/paramdelta.json").read_text())
    deltas = [
        (each.get("location") or Difference(each["base"]["location"], each["post"]["location"]), scale)
        for each in said["deltas"]
        for scale in [each["scale"]]
    ]
    fusion = {"lambda_" if name == "lambda" else name: value for name, value in said["fusion"].items()}
    asked = {name: said[name] for name in ("dtype", "take_config")}
    again = apply(
        said["base"]["location"], deltas, mixtral.path("again"), overwrite=True, **fusion, **asked
    )
    assert again.fingerprint == made.fingerprint
    assert asked == {"dtype": "float16", "take_config": {"model_type": "base"}}


def test_a_dry_run_counts_what_is_read_before_the_sum(mixtral: Models) -> None:
    """All of ties is surveyed but the base; dare that leaves nothing out has nothing to survey."""

    def read(**options: Any) -> int:
        return mixtral.apply("dry", (1.0, 1.0), dry_run=True, **options).read_bytes

    plain, size = read(), sum(tensor.nbytes for tensor in mixtral.state("new").values())
    assert read(method="dare_ties", density=1.0) == plain
    assert read(method="ties", density=0.5) == plain + (plain - size)
    assert read(method="slerp") == plain + plain
    assert plain < read(method="ties", density=0.5, only="embed") < plain + (plain - size)


def test_a_dry_run_reads_no_tensor_and_says_the_method(mixtral: Models) -> None:
    report = mixtral.apply("dry", (1.0, 1.0), method="ties", density=0.5, dry_run=True)
    assert report.fusion == {"method": "ties", "density": 0.5, "lambda": 1.0}
    assert not (mixtral.folder / "dry").exists()


def test_float64_is_refused_by_name(tmp_path: Path) -> None:
    state = {"w": torch.randn(4, 4, dtype=torch.float64)}
    base = str(write_model(tmp_path / "base", state))
    post = str(write_model(tmp_path / "post", {"w": state["w"] + 1}))
    with pytest.raises(Mismatch, match="w is F64"):
        apply(base, [Difference(base, post)], str(tmp_path / "x"), method="ties", density=0.5)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", *BY_ANGLES])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_one_value_that_is_no_number_is_not_spread_over_its_tensor(
    method: str, value: float, tmp_path: Path
) -> None:
    state = {name: torch.ones(3, 4) for name in ("a", "b", "c")}
    damaged = near(state, 1)
    damaged["a"][1, 2] = damaged["c"][0, 0] = value
    paths = [str(write_model(tmp_path / n, s)) for n, s in (("base", state), ("post", damaged))]
    deltas = [(Difference(*paths), 0.5)] * 2
    given = METHODS[method]
    with pytest.raises(Mismatch, match=r"a has values that are NaN or infinite.* c has") as refused:
        apply(paths[0], deltas, str(tmp_path / "x"), method=method, **given)
    assert "--skip" in str(refused.value)
    apply(paths[0], deltas, str(tmp_path / "x"), method=method, skip="^[ac]$", **given)


@pytest.mark.parametrize("method", ["linear", "ties", "breadcrumbs"])
def test_where_a_method_leaves_elements_alone_a_nan_stays_where_it_is(
    method: str, tmp_path: Path
) -> None:
    state = {"w": torch.ones(3, 4)}
    damaged = near(state, 1)
    damaged["w"][1, 2] = torch.nan
    paths = [str(write_model(tmp_path / n, s)) for n, s in (("base", state), ("post", damaged))]
    apply(paths[0], [(Difference(*paths), 0.5)], str(tmp_path / "x"), method=method)
    assert read_model(tmp_path / "x")["w"].isnan().nonzero().tolist() == [[1, 2]]


def test_too_little_memory_is_found_out_before_anything_is_read(mixtral: Models) -> None:
    """The walk that adds takes more than those that survey, which come first."""
    begun: list[str] = []

    def progress(title: str, total: int) -> Any:
        begun.append(title)
        return silent(title, total)

    def refusal(memory: int) -> str:
        given: dict[str, Any] = {"method": "ties", "density": 0.5, "workers": 3}
        with pytest.raises(UsageError, match="give --memory") as refused:
            mixtral.apply("x", (1.0, 0.5), memory=f"{memory}MiB", progress=progress, **given)
        return str(refused.value)

    found = re.search(r"--memory (\d+)MiB", refusal(8))
    assert found
    least = int(found[1])
    refusal(least - 1)
    assert not begun
    mixtral.apply("x", (1.0, 0.5), method="ties", density=0.5, workers=3, memory=f"{least}MiB")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, "'best' is not a method"),
        ({"density": 0.5}, "linear has no density"),
        ({"method": "ties", "seed": 1, "gamma": 0.1}, "ties has no gamma; ties has no seed"),
        ({"method": "ties", "density": 0.0}, "density 0.0"),
        ({"method": "della", "density": 0.9}, "between 0 and 1"),
        ({"method": "slerp", "lambda_": 2.0}, "slerp has no lambda"),
        ({"method": "slerp"}, "1 to 2 deltas, not 3"),
        ({"skip": "("}, "not a pattern"),
        ({"scale_for": ["norm"]}, "no pattern with a factor"),
        ({"scale_for": ["layers:5-2=1"]}, "no layer"),
        ({"only": "layers:x"}, "no range of layers"),
        ({"skip": "lm_haed"}, "'lm_haed' match no tensor"),
        ({"skip": ""}, "an empty pattern"),
        ({"only": "norm", "skip": ["embed", "norm"]}, "nothing is added to any tensor"),
        ({"lambda_": float("nan")}, "lambda must be a finite number"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str, mixtral: Models) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        mixtral.apply("refused", (1.0, 1.0, 1.0), **options)
    assert not (mixtral.folder / "refused").exists()


def test_every_method_can_be_asked_for() -> None:
    assert set(get_args(MethodName)) == set(METHODS_KNOWN) == {*METHODS, "linear"}


def test_model_stock_needs_two(mixtral: Models) -> None:
    with pytest.raises(UsageError, match="2 or more deltas, not 1"):
        mixtral.apply("refused", (1.0,), method="model_stock")


def test_a_pattern_can_t_take_long(mixtral: Models) -> None:
    """Patterns are RE2's: their time grows with the names, never with their powers."""
    assert not mixtral.apply("x", (1.0,), only=r"((\w+)+)+$").skipped


def test_a_restored_post_is_no_result_of_a_pattern_that_only_the_base_s_names_match(
    tmp_path: Path,
) -> None:
    """A restored post has post's names; the sum that is asked about would have the base's."""
    base = random_state(1)
    bare = {name.removeprefix("model."): tensor for name, tensor in base.items()}
    write_model(tmp_path / "base", bare)
    write_model(tmp_path / "post", near(base, 2))
    delta = Difference(str(tmp_path / "base"), str(tmp_path / "post"))
    wanted = (delta.base, [(delta, 1.0)], str(tmp_path / "x"))
    assert apply(*wanted).case == SAME_BASE
    found = apply_freshness(*wanted, skip="^embed", fingerprint_of=lambda model: None)
    assert found.state == "stale"
