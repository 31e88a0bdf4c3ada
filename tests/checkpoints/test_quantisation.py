"""Checkpoints whose numbers are codes: refused by name, asked to dequantise or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import State, cast, random_state, write_model

from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.errors import QuantisedCheckpoint
from pipeline.settings import Settings

METHODS = ("gptq", "awq", "bitsandbytes", "compressed-tensors", "mxfp4", "fbgemm_fp8", "hqq", "modelopt")


@pytest.mark.parametrize("dequantize", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_config_that_names_a_method_is_refused_by_it(
    tmp_path: Path, method: str, dequantize: bool
) -> None:
    folder = write_model(
        tmp_path, cast(random_state(1)), quantization_config={"quant_method": method, "bits": 4}
    )
    with pytest.raises(QuantisedCheckpoint, match=f"quantised with {method}") as refused:
        open_checkpoint(str(folder), settings=replace(Settings.load(), dequantize=dequantize))
    assert "--dequantize" not in str(refused.value)


def test_the_older_key_of_compressed_tensors_is_known(tmp_path: Path) -> None:
    config = {"compression_config": {"quant_method": "compressed-tensors"}}
    with pytest.raises(QuantisedCheckpoint, match="compressed-tensors"):
        open_checkpoint(str(write_model(tmp_path, cast(random_state(1)), **config)))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("a.qweight", "GPTQ or AWQ"),
        ("a.SCB", "bitsandbytes"),
        ("a.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("a.weight_packed", "compressed-tensors"),
        ("mlp.experts.down_proj_blocks", "MXFP4"),
    ],
)
def test_tensors_say_it_where_no_config_does(tmp_path: Path, name: str, method: str) -> None:
    state: State = {name: torch.ones(8, 4, dtype=torch.int32)}
    with pytest.raises(QuantisedCheckpoint, match=method) as refused:
        open_checkpoint(str(write_model(tmp_path, state)))
    assert name in str(refused.value)


@pytest.mark.parametrize("parts", [("text_config",), ("thinker_config", "text_config")], ids=".".join)
def test_a_part_s_config_names_the_method_too(tmp_path: Path, parts: tuple[str, ...]) -> None:
    said: object = {"quantization_config": {"quant_method": "awq"}}
    for part in reversed(parts[1:]):
        said = {part: said}
    folder = write_model(tmp_path, cast(random_state(1)), **{parts[0]: said})
    with pytest.raises(QuantisedCheckpoint, match="quantised with awq"):
        open_checkpoint(str(folder))
