"""compute and apply on models that are stored in codes: dequantised on the way, and marked as that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from models import State, formula, read_model, same_bits, write_model
from servers.azurite import Azurite
from typer.testing import CliRunner

import cli
from pipeline import apply, compute, inspect, open_checkpoint, verify
from pipeline.deltas.delta import open_delta
from pipeline.errors import QuantisedCheckpoint
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE
from pipeline.operations.arguments import Difference
from pipeline.operations.fingerprint import fingerprint
from pipeline.settings import Settings

NAME = "model.layers.0.mlp.up_proj.weight"
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
DERIVED = "fp8, dequantised"


def floats(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        NAME: torch.randn(200, 300, generator=generator).bfloat16(),
        "model.norm.weight": torch.randn(300, generator=generator).bfloat16(),
    }


def in_fp8(state: State) -> tuple[State, State]:
    """The model in 8-bit floats, and what it then means."""
    scale = torch.tensor([[0.01, 0.013, 0.007], [0.02, 0.011, 0.009]])
    wide = scale.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    codes = (state[NAME].float() / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
    stored = {**state, NAME: codes, NAME + "_scale_inv": scale}
    return stored, {**state, NAME: codes.float() * wide}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, State]:
    """What base, post and new-base mean: post is stored in bfloat16, the others in 8-bit floats."""
    meant = {"post": floats(2)}
    write_model(tmp_path / "post", meant["post"])
    for seed, name in ((1, "base"), (3, "new-base")):
        stored, meant[name] = in_fp8(floats(seed))
        write_model(tmp_path / name, stored, quantization_config=FP8, torch_dtype="bfloat16")
    return meant


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same_bits(found[name], expected[name])] == []


def test_post_comes_back_on_the_dequantised_base_bit_for_bit(
    tmp_path: Path, models: dict[str, State]
) -> None:
    base, post, delta = (str(tmp_path / name) for name in ("base", "post", "d.safetensors"))
    with pytest.raises(QuantisedCheckpoint, match="--dequantize"):
        compute(base, post, delta)
    made = compute(base, post, delta, dequantize=True)
    assert made.derived == (f"base: {DERIVED}",)
    with pytest.raises(QuantisedCheckpoint, match="--dequantize"):
        apply(base, [delta], str(tmp_path / "out"))
    done = apply(base, [delta], str(tmp_path / "out"), dequantize=True)
    assert (done.case, done.fingerprint) == (SAME_BASE, made.post_fingerprint)
    assert_same(read_model(tmp_path / "out"), models["post"])
    assert str(fingerprint(base, dequantize=True)) == made.base_fingerprint
    verify(delta, base=base, post=post, dequantize=True)


def test_another_dequantised_base_gets_the_formula_rounded_once(
    tmp_path: Path, models: dict[str, State]
) -> None:
    base, post, new = (str(tmp_path / name) for name in ("base", "post", "new-base"))
    delta, out = str(tmp_path / "d.safetensors"), tmp_path / "out"
    compute(base, post, delta, dequantize=True)
    done = apply(new, [(delta, 0.7)], str(out), dequantize=True, allow_unrelated=True)
    assert done.case == ANOTHER_BASE
    term = {name: (0.7, models["post"][name], models["base"][name]) for name in models["base"]}
    expected = {name: formula(models["new-base"][name], term[name]) for name in term}
    assert_same(read_model(out), expected)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config
    fused = apply(
        new,
        [(Difference(base, post), 0.7)],
        str(tmp_path / "fused"),
        dequantize=True,
        dtype="bfloat16",
        allow_unrelated=True,
    )
    assert fused.derived == (f"base: {DERIVED}", f"base of ∆1: {DERIVED}")
    exact = {n: formula(models["new-base"][n].float(), term[n]).bfloat16() for n in term}
    assert_same(read_model(tmp_path / "fused"), exact)


def test_the_manifest_the_card_and_inspect_say_what_was_dequantised(
    tmp_path: Path, models: dict[str, State]
) -> None:
    base, post, delta = (str(tmp_path / name) for name in ("base", "post", "d.safetensors"))
    compute(base, post, delta, dequantize=True)
    with open_delta(delta, settings=Settings.load()) as opened:
        manifest = opened.manifest
    assert manifest.base is not None
    assert manifest.post is not None
    assert (manifest.base.derived, manifest.post.derived) == (DERIVED, None)
    text = manifest.to_json().decode()
    assert '"derived"' not in text[text.index('"post":{') :]
    assert inspect(delta).facts["base_derived"] == DERIVED
    assert "post_derived" not in inspect(delta).facts
    assert inspect(base, dequantize=True).facts["derived"] == DERIVED
    apply(base, [delta], str(tmp_path / "out"), dequantize=True)
    assert f"`base of ∆1: {DERIVED}`" in (tmp_path / "out" / "README.md").read_text()
    provenance = json.loads((tmp_path / "out" / "paramdelta.json").read_text())
    assert provenance["deltas"][0]["base"]["derived"] == DERIVED
    assert "derived" not in provenance["deltas"][0]["post"]


def test_the_command_line_has_the_option(tmp_path: Path, models: dict[str, State]) -> None:
    shown = CliRunner().invoke(cli.app, ["inspect", str(tmp_path / "base"), "--dequantize"])
    assert shown.exit_code == 0, shown.output
    assert DERIVED in shown.output


def test_a_gguf_is_a_post_and_a_base_relative_to_its_dequantised_values(tmp_path: Path) -> None:
    base = str(write_gguf(tmp_path / "base.gguf", Kind.Q8_0, seed=1))
    post = str(write_gguf(tmp_path / "post.gguf", Kind.Q4_0, seed=2))
    delta = str(tmp_path / "d.safetensors")
    made = compute(base, post, delta)
    assert made.derived == ("base: GGUF Q8_0, dequantised", "post: GGUF Q4_0, dequantised")
    done = apply(base, [delta], str(tmp_path / "out"))
    assert (done.case, done.fingerprint) == (SAME_BASE, made.post_fingerprint)
    assert inspect(delta).facts["post_derived"] == "GGUF Q4_0, dequantised"
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="post.gguf").state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(same_bits(found[name], expected[name]) for name in expected)


def test_a_gguf_is_read_from_a_container_by_range(
    tmp_path: Path, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    container = azurite.create_container()
    container.upload_blob("models/m.gguf", path.read_bytes())
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    here = str(fingerprint(str(path)))
    for place in ("models/m.gguf", "models"):
        assert str(fingerprint(f"az://{container.container_name}/{place}")) == here


def test_a_dequantised_base_may_be_in_any_order_of_workers(
    tmp_path: Path, models: dict[str, State]
) -> None:
    with open_checkpoint(str(write_gguf(tmp_path / "m.gguf"))) as model:
        assert model.derived is not None
    once = fingerprint(str(tmp_path / "m.gguf"), workers=1)
    assert fingerprint(str(tmp_path / "m.gguf"), workers=4, memory="64MiB") == once
