"""Rows 9 and 10 of what goes wrong: experts in another order, and a base that is no relative of ours.

Each is found from a few values before anything is written, and let through only when that is asked for.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clouds import Cloud
from conftest import Cli
from deltas.surgery import put_together, take_apart
from models import State, cast, formula, near, random_state, read_model, same_bits, write_model

from pipeline import apply, combine, compute, convert, verify
from pipeline.deltas.base_sample import BaseSample
from pipeline.deltas.delta import open_delta
from pipeline.deltas.manifest import TensorForm
from pipeline.errors import CorruptFile, UnrelatedBase
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE
from pipeline.operations.arguments import Difference
from pipeline.operations.lineage.figures import LEAST_COSINE, Lineage
from pipeline.tensors.dtypes import BF16
from pipeline.tensors.likeness import relative_distance

EXAMPLES = Path(__file__).parents[2] / "examples" / "family"
EXPERTS = 6


@dataclasses.dataclass(frozen=True)
class Lines:
    """Models in a folder, the first two the delta's own."""

    folder: Path

    def add(self, name: str, state: State, **config: object) -> str:
        return str(write_model(self.folder / name, cast(state), **config))

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def delta(self) -> str:
        """The delta of base and post, made now."""
        path = str(self.folder / "d.safetensors")
        compute(self.path("base"), self.path("post"), path, overwrite=True)
        return path

    def onto(self, name: str, delta: str | Difference, **options: Any) -> Lineage:
        """What apply says of the model of that name; the result is `out`."""
        out = str(self.folder / "out")
        (found,) = apply(self.path(name), [delta], out, overwrite=True, **options).lineage
        return found


def large_state(seed: int) -> State:
    """A state with matrices that are large enough to tell something."""
    return random_state(seed, vocab=150, width=64, layers=4)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    made, base = Lines(tmp_path), large_state(1)
    made.add("base", base)
    made.add("post", near(base, 2))
    made.add("new", near(base, 3, scale=1e-2))
    return made


def shuffled_elements(state: State) -> State:
    """The same values, hence the same norms, in another order within each tensor."""
    generator = torch.Generator().manual_seed(5)
    return {
        n: t.flatten()[torch.randperm(t.numel(), generator=generator)].reshape(t.shape)
        for n, t in state.items()
    }


def shifted_layers(state: State) -> State:
    """The same layers, each in the place of the next."""
    return {n: state[_next_layer(n)] for n in state}


def _next_layer(name: str) -> str:
    for layer in range(4):
        if f".layers.{layer}." in name:
            return name.replace(f".layers.{layer}.", f".layers.{(layer + 1) % 4}.")
    return name


# -- row 10: an unrelated base of the same shape -------------------------------------------------------


@pytest.mark.parametrize(
    "stranger",
    [lambda base: large_state(9), shuffled_elements, shifted_layers],
    ids=["another seed", "the same norms", "layers in another order"],
)
def test_row_10_an_unrelated_base_of_the_same_shape_is_refused(
    lines: Lines, stranger: Callable[[State], State]
) -> None:
    lines.add("stranger", stranger(large_state(1)))
    with pytest.raises(UnrelatedBase, match=r"this base is unrelated.*cosine") as caught:
        lines.onto("stranger", lines.delta)
    assert str(LEAST_COSINE) in str(caught.value)
    assert "--allow-unrelated" in str(caught.value)
    assert caught.value.exit_code == 3
    assert not (lines.folder / "out").exists()


def test_row_10_an_unrelated_base_is_let_through_if_that_is_asked_for(lines: Lines) -> None:
    lines.add("stranger", large_state(9))
    found = lines.onto("stranger", lines.delta, allow_unrelated=True)
    assert found.cosine is not None
    assert found.cosine < LEAST_COSINE
    result, base = read_model(lines.folder / "out"), read_model(lines.folder / "stranger")
    old, post = (read_model(lines.folder / name) for name in ("base", "post"))
    assert all(same_bits(result[n], formula(base[n], (1.0, post[n], old[n]))) for n in base)
    assert "unrelated bases were allowed" in (lines.folder / "out" / "README.md").read_text()


def test_row_10_a_later_base_of_the_family_is_taken_and_described(tmp_path: Path) -> None:
    delta = str(tmp_path / "d.safetensors")
    compute(str(EXAMPLES / "base-v1"), str(EXAMPLES / "post-v1"), delta)
    report = apply(str(EXAMPLES / "base-v2"), [delta], str(tmp_path / "out"))
    (found,) = report.lineage
    assert (report.case, found.basis, found.tensors) == (ANOTHER_BASE, "sample", 28)
    assert found.cosine is not None
    assert found.cosine > 0.99
    said = json.loads((tmp_path / "out" / "paramdelta.json").read_text())
    assert said["lineage"] == [json.loads(json.dumps(dataclasses.asdict(found)))]
    assert f"cosine {found.cosine:.4g}" in (tmp_path / "out" / "README.md").read_text()


def test_the_very_base_is_restored_as_ever_and_nothing_is_probed(lines: Lines) -> None:
    report = apply(lines.path("base"), [lines.delta], lines.path("out"))
    assert (report.case, report.lineage) == (SAME_BASE, ())


def test_the_cosine_is_that_of_the_values_less_their_mean(lines: Lines) -> None:
    """Weights that all lie near one value would look alike in any two models."""
    lifted = {n: t + 1 for n, t in large_state(1).items()}
    lines.add("base", lifted)
    lines.add("post", near(lifted, 2))
    lines.add("stranger", {n: t + 1 for n, t in large_state(9).items()})
    with pytest.raises(UnrelatedBase):
        lines.onto("stranger", lines.delta)


def test_a_difference_on_the_way_says_the_same_as_the_stored_delta(lines: Lines) -> None:
    on_the_way = Difference(lines.path("base"), lines.path("post"))
    assert lines.onto("new", on_the_way) == lines.onto("new", lines.delta)
    lines.add("stranger", large_state(9))
    with pytest.raises(UnrelatedBase):
        lines.onto("stranger", on_the_way)


def test_a_dry_run_says_and_refuses_the_same(lines: Lines) -> None:
    delta = lines.delta
    assert lines.onto("new", delta, dry_run=True) == lines.onto("new", delta)
    lines.add("stranger", large_state(9))
    with pytest.raises(UnrelatedBase):
        lines.onto("stranger", delta, dry_run=True)


def test_each_of_several_deltas_is_held_against_the_base(lines: Lines) -> None:
    other = large_state(9)
    lines.add("other", other)
    lines.add("other-post", near(other, 4))
    first, second = lines.delta, lines.path("other.safetensors")
    compute(lines.path("other"), lines.path("other-post"), second)
    with pytest.raises(UnrelatedBase) as caught:
        apply(lines.path("new"), [first, second], lines.path("out"))
    assert len(caught.value.problems) == 1
    assert "other.safetensors" in caught.value.problems[0]


def test_a_base_in_a_container_is_probed_there(lines: Lines, cloud: Cloud) -> None:
    lines.add("stranger", large_state(9))
    for name in ("new", "stranger"):
        cloud.upload(lines.folder / name, f"models/{name}")
    delta = lines.delta
    (found,) = apply(f"{cloud.location}/models/new", [delta], lines.path("out"), dry_run=True).lineage
    assert found == lines.onto("new", delta)
    with pytest.raises(UnrelatedBase):
        apply(f"{cloud.location}/models/stranger", [delta], lines.path("out"), overwrite=True)


# -- the sample ----------------------------------------------------------------------------------------


def test_the_sample_is_what_the_specification_says(lines: Lines) -> None:
    with open_delta(lines.delta) as delta:
        sample = delta.manifest.base_sample
        assert sample is not None
        assert sorted(sample.runs) == [f"model.layers.{n}.mlp.up_proj.weight" for n in range(4)]
        base = read_model(lines.folder / "base")
        for name, data in sample.runs.items():
            values = base[name].flatten()
            start = (values.numel() - 256) // 2
            assert data == values[start : start + 256].view(torch.uint8).numpy().tobytes()


def test_a_delta_of_small_tensors_has_no_sample_and_says_so(tmp_path: Path) -> None:
    lines = Lines(tmp_path)
    lines.add("base", random_state(1))
    lines.add("post", near(random_state(1), 2))
    lines.add("new", random_state(9))
    found = lines.onto("new", lines.delta)
    assert found == Lineage("nothing")
    assert "not known" in str(found)


def test_convert_keeps_the_sample_and_combine_keeps_it_for_one_base_only(lines: Lines) -> None:
    first, converted = lines.delta, lines.path("converted.safetensors")
    convert(first, converted, codec="none")
    assert sample_of(converted) == sample_of(first) != None  # noqa: E711
    lines.add("post-2", near(large_state(1), 7))
    second = lines.path("second.safetensors")
    compute(lines.path("base"), lines.path("post-2"), second)
    combine([(first, 0.5), (second, 0.5)], lines.path("sum.safetensors"))
    assert sample_of(lines.path("sum.safetensors")) == sample_of(first)
    compute(lines.path("new"), lines.path("post-2"), second, overwrite=True)
    combine([(first, 0.5), (second, 0.5)], lines.path("sum.safetensors"), overwrite=True)
    assert sample_of(lines.path("sum.safetensors")) is None


def sample_of(path: str) -> Any:
    return take_apart(Path(path)).manifest.get("base_sample")


def with_sample(path: str, change: Callable[[Any], Any]) -> str:
    """The delta, sealed as a forger would, with another sample; without one if it becomes None."""
    parts = take_apart(Path(path))
    manifest = parts.manifest
    manifest["base_sample"] = change(manifest["base_sample"])
    if manifest["base_sample"] is None:
        del manifest["base_sample"]
    parts.put_manifest(manifest)
    return str(put_together(Path(path), parts))


def test_a_delta_without_a_sample_falls_back_on_norms(lines: Lines) -> None:
    old = with_sample(lines.delta, lambda sample: None)
    found = lines.onto("new", old)
    assert (found.basis, found.cosine) == ("norms", None)
    assert found.ratio == pytest.approx(1.1, abs=0.1)  # as much as drift of half its size adds
    lines.add("larger", {n: t * 10 for n, t in large_state(9).items()})
    with pytest.raises(UnrelatedBase, match="times those of the delta's own base in size"):
        lines.onto("larger", old)


NAME = "model.layers.0.mlp.up_proj.weight"
HOSTILE: dict[str, Callable[[Any], Any]] = {
    "no object": lambda sample: [],
    "no columns": lambda sample: {"runs": sample["runs"]},
    "a list of runs": lambda sample: {**sample, "runs": list(sample["runs"].values())},
    "a tensor that is not there": lambda sample: {**sample, "runs": {"x": sample["runs"][NAME]}},
    "too short": lambda sample: {**sample, "runs": {NAME: sample["runs"][NAME][:-4]}},
    "too long": lambda sample: {**sample, "runs": {NAME: sample["runs"][NAME] * 10**4}},
    "no base64": lambda sample: {**sample, "runs": {NAME: "\u00e4" * len(sample["runs"][NAME])}},
    "padding in the middle": lambda sample: {**sample, "runs": {NAME: "=" * len(sample["runs"][NAME])}},
    "a number": lambda sample: {**sample, "runs": {NAME: 684}},
    "columns of a vector": lambda sample: {**sample, "columns": {"model.norm.weight": "AAAA"}},
    "columns of the wrong size": lambda sample: {**sample, "columns": {NAME: "AAAA"}},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_sample_is_a_damaged_file(lines: Lines, change: Callable[[Any], Any]) -> None:
    hostile = with_sample(lines.delta, change)
    with pytest.raises(CorruptFile):
        open_delta(hostile)


def test_a_tensor_without_rows_has_no_sample() -> None:
    form = TensorForm("x", (2, 4), (0, 4), BF16, BF16, BF16)
    for kind in ("runs", "columns"):
        with pytest.raises(ValueError, match="not of its size"):
            BaseSample.parse({"runs": {}, "columns": {}, kind: {"x": ""}}, [form])


def test_infinite_values_have_no_distance_and_warn_of_nothing() -> None:
    values = np.array([np.inf, 1.0])
    assert relative_distance(values, values) is None


def forged(values: np.ndarray[Any, Any]) -> Callable[[Any], Any]:
    """A sample of the right form whose runs all are `values`, bits of bfloat16."""
    text = base64.b64encode(values.astype("<u2").tobytes()).decode()
    return lambda sample: {**sample, "runs": dict.fromkeys(sample["runs"], text)}


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0x0000], ids=["NaN", "infinity", "zero"])
def test_a_sample_that_tells_nothing_is_not_counted(lines: Lines, bits: int) -> None:
    found = lines.onto("new", with_sample(lines.delta, forged(np.full(256, bits))))
    assert (found.basis, found.cosine) == ("norms", None)


def test_a_forged_sample_is_found_by_verify_with_the_base(lines: Lines) -> None:
    delta = lines.delta
    verify(delta, base=lines.path("base"))
    path = with_sample(delta, forged(np.arange(256)))
    verify(path)
    with pytest.raises(CorruptFile, match="is not of that base"):
        verify(path, base=lines.path("base"))


# -- row 9: experts in another order -------------------------------------------------------------------

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
}


def mixture(seed: int) -> State:
    """A Mixtral-shaped state."""
    generator = torch.Generator().manual_seed(seed)
    state = large_state(seed)
    for layer in range(2):
        place = f"model.layers.{layer}.block_sparse_moe"
        state[f"{place}.gate.weight"] = torch.randn(EXPERTS, 64, generator=generator) * 0.02
        for expert in range(EXPERTS):
            for matrix in ("w1", "w3"):
                name = f"{place}.experts.{expert}.{matrix}.weight"
                state[name] = torch.randn(128, 64, generator=generator) * 0.02
    return state


def reordered(state: State, layer: int, order: Sequence[int]) -> State:
    """The same model with the experts of a layer, and its router's rows, in that order."""
    place = f"model.layers.{layer}.block_sparse_moe"
    found = dict(state)
    found[f"{place}.gate.weight"] = state[f"{place}.gate.weight"][list(order)]
    for expert, other in enumerate(order):
        for matrix in ("w1", "w3"):
            name = f"{place}.experts.{{}}.{matrix}.weight"
            found[name.format(expert)] = state[name.format(other)]
    return found


@pytest.fixture
def experts(tmp_path: Path) -> Lines:
    made, base = Lines(tmp_path), mixture(1)
    made.add("base", base, **MIXTRAL)
    made.add("post", near(base, 2), **MIXTRAL)
    made.add("new", near(base, 3, scale=5e-3), **MIXTRAL)
    moved = reordered(near(base, 3, scale=5e-3), 1, [0, 3, 2, 1, 4, 5])
    made.add("moved", moved, **MIXTRAL)
    return made


def test_row_9_experts_in_another_order_are_refused_by_layer_and_number(experts: Lines) -> None:
    with pytest.raises(UnrelatedBase, match="experts are in another order") as caught:
        experts.onto("moved", experts.delta)
    (problem,) = caught.value.problems
    assert problem.endswith("model.layers.1.block_sparse_moe.gate.weight: 1 is at 3, 3 is at 1")
    assert not (experts.folder / "out").exists()


def test_row_9_experts_in_their_order_come_out_right(experts: Lines) -> None:
    found = experts.onto("new", experts.delta)
    assert (found.routers, found.moved) == (2, ())
    result, base = read_model(experts.folder / "out"), read_model(experts.folder / "new")
    old, post = (read_model(experts.folder / name) for name in ("base", "post"))
    assert all(same_bits(result[n], formula(base[n], (1.0, post[n], old[n]))) for n in base)


def test_row_9_moved_experts_are_let_through_if_that_is_asked_for(experts: Lines) -> None:
    found = experts.onto("moved", experts.delta, allow_unrelated=True)
    assert len(found.moved) == 1


def test_row_9_a_difference_on_the_way_and_a_dry_run_find_them_too(experts: Lines) -> None:
    difference = Difference(experts.path("base"), experts.path("post"))
    with pytest.raises(UnrelatedBase, match="1 is at 3"):
        experts.onto("moved", difference, dry_run=True)


# -- the same pass, with the old base at hand -----------------------------------------------------------


def doubles(state: State) -> dict[str, np.ndarray[Any, Any]]:
    return {n: t.double().numpy().ravel() for n, t in state.items()}


def test_with_the_old_base_the_delta_is_held_against_the_new_bases_movement(lines: Lines) -> None:
    report = apply(
        lines.path("new"), [lines.delta], lines.path("out"), old_base=lines.path("base"), scale=0.5
    )
    old, post, new = (doubles(read_model(lines.folder / n)) for n in ("base", "post", "new"))
    delta = {n: (post[n].astype("f4") - old[n].astype("f4")).astype("f8") for n in old}
    moved = {n: new[n] - old[n] for n in old}
    whole = sum(delta[n] @ moved[n] for n in old) / np.sqrt(
        sum(delta[n] @ delta[n] for n in old) * sum(moved[n] @ moved[n] for n in old)
    )
    assert report.movement_cosine == pytest.approx(whole, rel=1e-6)
    cosines = {n: delta[n] @ moved[n] / np.linalg.norm(delta[n]) / np.linalg.norm(moved[n]) for n in old}
    distances = {n: np.linalg.norm(moved[n]) / np.linalg.norm(old[n]) for n in old}
    for extremes, figures in (
        (report.movement_extremes, cosines),
        (report.distance_extremes, distances),
    ):
        least, most = extremes
        assert (least.tensor, most.tensor) == (
            min(figures, key=figures.get),
            max(figures, key=figures.get),
        )
        assert least.value == pytest.approx(figures[least.tensor], rel=1e-4)
        assert most.value == pytest.approx(figures[most.tensor], rel=1e-4)


def test_a_base_that_moved_along_the_delta_has_the_cosine_1(lines: Lines) -> None:
    report = apply(lines.path("post"), [lines.delta], lines.path("out"), old_base=lines.path("base"))
    assert report.movement_cosine == pytest.approx(1)
    assert [each.value for each in report.movement_extremes] == pytest.approx([1, 1])


def test_how_much_the_result_differs_from_the_new_base_is_said_by_tensor(lines: Lines) -> None:
    report = apply(lines.path("new"), [lines.delta], lines.path("out"), scale=2.0)
    new, result = (doubles(read_model(lines.folder / n)) for n in ("new", "out"))
    parts = {n: np.linalg.norm(result[n] - new[n]) / np.linalg.norm(new[n]) for n in new}
    least, most = report.change_extremes
    assert (least.tensor, most.tensor) == (min(parts, key=parts.get), max(parts, key=parts.get))
    assert most.value == pytest.approx(parts[most.tensor], rel=1e-4)
    whole = np.sqrt(
        sum(np.sum((result[n] - new[n]) ** 2) for n in new) / sum(np.sum(new[n] ** 2) for n in new)
    )
    assert report.relative_change == pytest.approx(whole, rel=1e-4)
    assert report.movement_cosine is None


def test_the_command_line_has_the_option_and_an_exit_code(lines: Lines, cli: Cli) -> None:
    lines.add("stranger", large_state(9))
    words = ("apply", "--base", lines.path("stranger"), "--delta", lines.delta)
    refused = cli(*words, "--output", lines.path("out"))
    assert (refused.returncode, "this base is unrelated" in refused.stderr) == (3, True)
    done = cli(*words, "--output", lines.path("out"), "--allow-unrelated", "--format", "json")
    assert json.loads(done.stdout)["lineage"][0]["basis"] == "sample"
