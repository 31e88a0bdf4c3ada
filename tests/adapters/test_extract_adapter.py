"""extract-adapter: PEFT loads what it writes, and gets the delta back within the stated error."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.making import FAMILY, load, merged_by_us, small_gpt2, small_mixtral
from clouds import Cloud
from keys import make_pair
from models import State, cast, near, random_state, read_model, write_model
from safetensors.torch import load_file
from typer.testing import CliRunner

import cli
from pipeline import apply, combine, compute, extract_adapter, verify
from pipeline.errors import CorruptFile, OtherCheckpoint, OutputExists, UsageError
from pipeline.tensors.low_rank import factorise, residual, squared_norm

BASE, POST = str(FAMILY / "base-v1"), str(FAMILY / "post-v1")
ONE = "layers.0.self_attn.q_proj"  # where a matrix is enough


def merged_by_peft(base: str, adapter: str, rows: int | None = None) -> dict[str, torch.Tensor]:
    """What PEFT makes of base and adapter in float32."""
    from peft import PeftModel

    model = load(base, torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties that it tears, and of experts' ranks that it fuses
        return dict(PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict())


def difference(post: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """post - base in float64; rows that base has not count as zero."""
    below = torch.zeros(post.shape, dtype=torch.float64)
    below[: len(base)] = base
    return post.double() - below


def assert_reproduced(report: Any, base: State, post: State, merged: dict[str, torch.Tensor]) -> None:
    """PEFT's result is as far from post as the report says, and equal where it is held whole."""
    stated = {each.name: each.error for each in report.tensors}
    for name, tensor in post.items():
        wanted = difference(tensor, base[name])
        error = float((merged[name] - tensor.double()).norm() / wanted.norm()) if wanted.any() else 0.0
        assert error == pytest.approx(stated.get(name, 0.0), abs=1e-5), name


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """That of a real fine-tune, which has three tokens more than its base."""
    path = str(tmp_path_factory.mktemp("delta") / "d.safetensors")
    compute(BASE, POST, path)
    return path


@pytest.mark.parametrize("wanted", [{"rank": 8}, {"energy": 0.9}], ids=str)
def test_peft_gets_post_within_the_error_that_is_stated(
    wanted: dict[str, Any], delta: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "adapter")
    report = extract_adapter(delta, out, base=BASE, **wanted)
    base, post = read_model(Path(BASE)), read_model(Path(POST))
    merged = merged_by_peft(BASE, out, rows=1024)
    assert_reproduced(report, base, post, merged)
    assert torch.equal(merged["lm_head.weight"], post["model.embed_tokens.weight"].float())
    assert not report.left_out
    assert "resize_token_embeddings(1024)" in report.notes[0]
    errors = [each.error for each in report.tensors]
    if "energy" in wanted:
        assert max(errors) ** 2 <= 0.1 + 1e-6
        assert len({each.rank for each in report.tensors}) > 5
    else:
        assert {each.rank for each in report.tensors} == {8}
        assert report.error is not None and min(errors) < report.error < max(errors)


def test_what_is_extracted_is_a_post_again(delta: str, tmp_path: Path) -> None:
    out = str(tmp_path / "adapter")
    extract_adapter(delta, out, rank=160, base=BASE)
    ours, post = merged_by_us(BASE, out), read_model(Path(POST))
    assert set(ours) == set(post)
    for name, tensor in post.items():
        assert torch.allclose(ours[name].float(), tensor.float(), rtol=2**-8, atol=1e-6), name
    assert torch.equal(ours["model.embed_tokens.weight"], post["model.embed_tokens.weight"])


def test_without_the_base_what_is_no_matrix_is_left_out_and_told(delta: str, tmp_path: Path) -> None:
    report = extract_adapter(delta, str(tmp_path / "adapter"), rank=4, skip="mlp", only="layers|norm")
    left_out = "\n".join(report.left_out)
    assert "model.norm.weight: not a linear layer's matrix" in left_out
    assert "model.layers.0.mlp.up_proj.weight: not asked for" in left_out
    assert "model.embed_tokens.weight: not asked for" in left_out
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] is None
    assert all(".self_attn." in name for name in config["target_modules"])
    assert len(config["target_modules"]) == 16


def test_what_no_base_would_bring_in_is_not_promised(tmp_path: Path) -> None:
    state = {"a.q_proj.weight": torch.zeros(8, 8), "experts.gate_up_proj": torch.zeros(2, 8, 8)}
    base, post = (
        str(write_model(tmp_path / name, {key: each + add for key, each in state.items()}))
        for name, add in (("base", 0), ("post", 1))
    )
    compute(base, post, str(tmp_path / "d.safetensors"))
    for given in (None, base):
        report = extract_adapter(
            str(tmp_path / "d.safetensors"), str(tmp_path / "a"), rank=2, base=given, dry_run=True
        )
        assert report.left_out == ["experts.gate_up_proj: no module's weight or bias"]


def test_post_s_tokenizer_and_the_base_s_name_go_with_it(delta: str, tmp_path: Path) -> None:
    report = extract_adapter(delta, str(tmp_path / "adapter"), rank=4, only=ONE)
    tokenizer = (tmp_path / "adapter" / "tokenizer.json").read_bytes()
    assert tokenizer == (FAMILY / "post-v1" / "tokenizer.json").read_bytes()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE
    assert config["task_type"] == "CAUSAL_LM"
    assert report.files[-1] == "adapter_config.json"


def test_a_dry_run_tells_memory_and_writes_nothing(delta: str, tmp_path: Path) -> None:
    report = extract_adapter(delta, str(tmp_path / "adapter"), rank=4, dry_run=True)
    assert 4 * 160 * 432 < report.memory_bytes < 64 << 20
    assert not (tmp_path / "adapter").exists()
    with pytest.raises(UsageError, match=r"takes .* to be decomposed"):
        extract_adapter(delta, str(tmp_path / "adapter"), rank=4, memory="1MiB", dry_run=True)


def test_layers_that_lie_the_other_way_round_and_their_biases(tmp_path: Path) -> None:
    base = small_gpt2(tmp_path / "base")
    state = read_model(tmp_path / "base")
    post = cast(near(state, 5, scale=0.05))
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    write_model(tmp_path / "post", post, **config)
    compute(base, str(tmp_path / "post"), str(tmp_path / "d.safetensors"))
    report = extract_adapter(
        str(tmp_path / "d.safetensors"), str(tmp_path / "adapter"), rank=3, base=base
    )
    merged = merged_by_peft(base, str(tmp_path / "adapter"))
    assert_reproduced(report, state, post, merged)


def test_experts_have_one_rank_and_peft_loads_them(tmp_path: Path) -> None:
    base, post = small_mixtral(tmp_path / "base"), small_mixtral(tmp_path / "post", seed=4)
    delta = str(tmp_path / "d.safetensors")
    compute(base, post, delta)
    skip = "embed|norm|lm_head"  # routers are not left out: PEFT takes them as experts
    extract_adapter(delta, str(tmp_path / "adapter"), rank=16, skip=skip)
    merged, wanted = merged_by_peft(base, str(tmp_path / "adapter")), load(post).state_dict()
    experts = [name for name in wanted if ".experts." in name or ".gate." in name]
    assert any(".gate." in name for name in experts)
    assert experts
    for name in experts:
        assert torch.allclose(merged[name], wanted[name], atol=1e-5), name
    few = extract_adapter(delta, str(tmp_path / "few"), energy=0.5, skip=skip)
    ranks = {bool(re.search("experts|gate", each.name)): set[int]() for each in few.tensors}
    for each in few.tensors:
        assert each.error is not None and each.error**2 <= 0.5 + 1e-6
        ranks[bool(re.search("experts|gate", each.name))].add(each.rank)
    assert len(ranks[True]) == 1 and ranks[True] != {16} and ranks[False] - ranks[True]
    merged, before = merged_by_peft(base, str(tmp_path / "few")), load(base).state_dict()
    for name in experts:
        lost, change = merged[name] - wanted[name], wanted[name] - before[name]
        assert 0 < float(lost.norm() / change.norm()) ** 2 <= 0.5 + 1e-5, name
    ours, files = merged_by_us(base, tmp_path / "adapter"), read_model(tmp_path / "post")
    for name in (name for name in files if re.search("experts|gate", name)):
        assert torch.allclose(ours[name], files[name], atol=1e-5), name


@pytest.mark.parametrize("shape", [(60, 40), (900, 800)], ids=["exact", "randomised"])
def test_no_product_of_the_rank_is_nearer(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    rows, columns = (torch.linalg.qr(torch.randn(n, 24, generator=generator))[0] for n in shape)
    values = 2.0 ** -torch.arange(24)
    matrix = ((rows * values) @ columns.T).contiguous().numpy()
    left, right = factorise(matrix, rank=5, energy=None, seed=0)
    best = float((values[5:].double() ** 2).sum())
    assert residual(matrix, left, right) == pytest.approx(best, rel=1e-2)
    share = 1 - best / squared_norm(matrix)
    assert factorise(matrix, rank=None, energy=share * 0.999, seed=0)[0].shape[1] == 5
    again = factorise(matrix, rank=5, energy=None, seed=0)
    assert (again[0] == left).all()
    assert (again[1] == right).all()


@pytest.mark.parametrize(
    "options", [{}, {"rank": 0}, {"rank": 4, "energy": 0.5}, {"energy": 1.5}, {"rank": 4, "only": "("}]
)
def test_options_that_mean_nothing_are_refused(
    options: dict[str, Any], delta: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        extract_adapter(delta, str(tmp_path / "adapter"), **options)


@pytest.mark.parametrize(
    ("size", "options", "said"),
    [
        ((8, 8, 1e12), {"dtype": "float16"}, "beyond F16 .*bfloat16"),
        ((900, 800, 1e36), {}, "too large .*--skip"),
        ((8, 8, 1e200), {}, "not finite in float32 .*--skip"),
    ],
    ids=["factors", "products", "differences"],
)
def test_what_is_too_large_is_refused_by_name_and_nothing_appears(
    size: tuple[int, int, float], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    rows, columns, scale = size
    dtype = torch.float64 if scale > 1e100 else torch.float32
    below = torch.zeros(rows, columns, dtype=dtype)
    above = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=dtype) * scale
    base, post = (
        str(write_model(tmp_path / name, {"a.q_proj.weight": tensor}))
        for name, tensor in (("base", below), ("post", above))
    )
    compute(base, post, str(tmp_path / "d.safetensors"))
    with pytest.raises(UsageError, match=rf"a\.q_proj\.weight.* {said}"):
        extract_adapter(str(tmp_path / "d.safetensors"), str(tmp_path / "out"), rank=4, **options)
    assert not (tmp_path / "out").exists()


def test_what_is_extracted_of_a_sum_holds_whole_what_the_sum_makes_of_its_base(tmp_path: Path) -> None:
    state = cast(random_state(1))
    base = str(write_model(tmp_path / "base", state))
    deltas = [str(tmp_path / f"{seed}.safetensors") for seed in (2, 3)]
    for seed, path in enumerate(deltas, 2):
        compute(base, str(write_model(tmp_path / f"post-{seed}", cast(near(state, seed)))), path)
    combine([(deltas[0], 0.5), (deltas[1], 1.5)], str(tmp_path / "sum.safetensors"))
    apply(base, [str(tmp_path / "sum.safetensors")], str(tmp_path / "model"))
    report = extract_adapter(
        str(tmp_path / "sum.safetensors"), str(tmp_path / "adapter"), rank=16, base=base
    )
    merged, wanted = merged_by_us(base, tmp_path / "adapter"), read_model(tmp_path / "model")
    assert "model.embed_tokens.weight" in report.whole
    for name, tensor in wanted.items():
        held = name in report.whole
        assert (
            torch.equal(merged[name], tensor)
            if held
            else torch.allclose(merged[name].float(), tensor.float(), rtol=2**-7, atol=1e-6)
        ), name


def test_another_base_is_found_out_and_nothing_appears(delta: str, tmp_path: Path) -> None:
    with pytest.raises(OtherCheckpoint):
        extract_adapter(
            delta, str(tmp_path / "adapter"), rank=4, base=str(FAMILY / "base-v2"), only=f"{ONE}|norm"
        )
    assert not (tmp_path / "adapter").exists()


def test_an_output_is_not_replaced_unless_asked(delta: str, tmp_path: Path) -> None:
    out = str(tmp_path / "adapter")
    extract_adapter(delta, out, rank=2, only=ONE)
    with pytest.raises(OutputExists):
        extract_adapter(delta, out, rank=2, only=ONE)
    extract_adapter(delta, out, rank=3, only=ONE, overwrite=True)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 3


def test_an_adapter_is_published_in_a_container_and_read_from_there(
    cloud: Cloud, tmp_path: Path
) -> None:
    base = str(write_model(tmp_path / "base", cast(random_state(1))))
    post = str(write_model(tmp_path / "post", cast(near(random_state(1), 2))))
    compute(base, post, f"{cloud.location}/d.safetensors")
    extract_adapter(f"{cloud.location}/d.safetensors", f"{cloud.location}/adapter", rank=4, base=base)
    extract_adapter(f"{cloud.location}/d.safetensors", str(tmp_path / "adapter"), rank=4, base=base)
    far, here = merged_by_us(base, f"{cloud.location}/adapter"), merged_by_us(base, tmp_path / "adapter")
    assert all(torch.equal(far[name], here[name]) for name in here)


def test_factors_may_be_of_a_narrower_format(delta: str, tmp_path: Path) -> None:
    wide = extract_adapter(delta, str(tmp_path / "wide"), rank=160, only=ONE)
    narrow = extract_adapter(delta, str(tmp_path / "n"), rank=160, only=ONE, dtype="bfloat16")
    state = load_file(tmp_path / "n" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert narrow.error is not None and wide.error is not None
    assert wide.error < 1e-5 < narrow.error < 1e-2


def test_the_command_shows_each_error_and_its_report_is_json(delta: str, tmp_path: Path) -> None:
    words = [
        "extract-adapter",
        delta,
        "--output",
        str(tmp_path / "a"),
        "--rank",
        "4",
        "--only",
        "mlp.up",
    ]
    shown = CliRunner().invoke(cli.app, words)
    assert shown.exit_code == 0
    assert "model.layers.0.mlp.up_proj.weight: rank 4, error 0." in shown.output
    done = CliRunner().invoke(cli.app, [*words, "--overwrite", "--format", "json"])
    report = json.loads(done.output)
    assert report["tensors"][0].keys() == {"name", "rank", "error"}
    assert report["error"] > 0


def test_a_signed_adapter_is_verified_as_a_whole(delta: str, tmp_path: Path) -> None:
    keys = make_pair(tmp_path, "ed25519")
    out = tmp_path / "adapter"
    report = extract_adapter(delta, str(out), rank=2, base=BASE, sign_key=keys.private)
    assert report.files[-1] == "adapter_config.json"
    found = verify(str(out), key=keys.public, require_signature=True)
    assert found.signed_by is not None and not found.unlisted
    said = json.loads((out / "paramdelta.json").read_text())
    assert said["adapter"]["rank"] == 2
    assert said["base"]["location"] == BASE and said["deltas"][0]["location"] == delta
    weights = out / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CorruptFile):
        verify(str(out), key=keys.public)


def test_an_unsigned_adapter_is_verified_too_and_its_config_counts(delta: str, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    extract_adapter(delta, str(out), rank=2, only=ONE)
    assert verify(str(out)).signed_by is None
    config = out / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(CorruptFile, match=r"adapter_config\.json"):
        verify(str(out))
