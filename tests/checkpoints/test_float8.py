"""Weights in 8-bit floats: dequantised as transformers and torch do, if that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.files import contents
from models import State, cast, random_state, write_model

from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.errors import QuantisedCheckpoint
from pipeline.settings import Settings

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
NAME = "model.layers.0.mlp.up_proj.weight"
SCALES = NAME + "_scale_inv"


def dequantised(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder), settings=replace(Settings.load(), dequantize=True))


def codes(*shape: int, dtype: torch.dtype = torch.float8_e4m3fn, seed: int = 1) -> torch.Tensor:
    """All codes but those of NaN, at random."""
    made = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    values = made.view(dtype).float()
    return torch.where(values.isfinite(), values, 1).to(dtype)


def scales(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.01 + 1e-3


def spread(grid: torch.Tensor, block: tuple[int, int], shape: tuple[int, ...]) -> torch.Tensor:
    """A scale for each element."""
    rows, columns = shape[-2:]
    wide = grid.float().repeat_interleave(block[0], -2)[..., :rows, :]
    return wide.repeat_interleave(block[1], -1)[..., :columns]


def value_of(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    entry = checkpoint.tensors[name].entry
    assert entry.dtype.name == "F32"
    return torch.frombuffer(bytearray(contents(checkpoint)[name]), dtype=torch.float32).reshape(
        entry.shape
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(
    ("shape", "grid", "block"),
    [
        ((256, 384), (2, 3), (128, 128)),
        ((200, 300), (2, 3), (128, 128)),
        ((256, 384), (1, 1), (256, 384)),
        ((256, 384), (256, 1), (1, 384)),
        ((3, 256, 130), (3, 2, 2), (128, 128)),
    ],
    ids=["blocks", "cut-off", "whole", "rows", "experts"],
)
def test_each_value_is_its_code_times_the_scale_of_its_block(
    tmp_path: Path,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    block: tuple[int, int],
) -> None:
    state = {NAME: codes(*shape, dtype=dtype), SCALES: scales(*grid)}
    with dequantised(write_model(tmp_path, state, quantization_config=FP8)) as model:
        expected = state[NAME].float() * spread(state[SCALES], block, shape)
        assert torch.equal(value_of(model, NAME), expected)


def test_it_is_transformers_own_dequantisation_bit_for_bit(tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    state = {NAME: codes(256, 384), SCALES: scales(2, 3)}
    theirs: Any = Fp8Dequantize(None)
    wanted = theirs.convert({"weight": state[NAME], "weight_scale_inv": state[SCALES]})["weight"]
    with dequantised(write_model(tmp_path, state, quantization_config=FP8)) as model:
        ours = value_of(model, NAME)
    assert wanted.dtype == torch.float32
    assert torch.equal(ours.view(torch.int32), wanted.view(torch.int32))
    rounded = theirs._dequantize_one(state[NAME], state[SCALES], output_dtype=torch.bfloat16)
    assert torch.equal(ours.bfloat16(), rounded)


@pytest.mark.parametrize(
    "kept", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu], ids=str
)
def test_scales_may_be_of_any_float_format(tmp_path: Path, kept: torch.dtype) -> None:
    grid = scales(2, 3).to(kept)
    with dequantised(write_model(tmp_path, {NAME: codes(256, 384), SCALES: grid})) as model:
        expected = codes(256, 384).float() * spread(grid, (128, 128), (256, 384))
        assert torch.equal(value_of(model, NAME), expected)


@pytest.mark.parametrize(("start", "count"), [(0, 1), (299, 2), (1, 300), (150, 1000), (59_000, 1000)])
def test_any_range_of_elements_can_be_read(tmp_path: Path, start: int, count: int) -> None:
    state = {NAME: codes(200, 300), SCALES: scales(2, 3)}
    with dequantised(write_model(tmp_path, state, quantization_config=FP8)) as model:
        whole = value_of(model, NAME).reshape(-1)
        source = model.tensors[NAME]
        found = np.empty(count, "<f4")
        model.readers[source.file].read_into(
            source.entry.offset + 4 * start, memoryview(found).cast("B")
        )
        assert np.array_equal(found, whole[start : start + count].numpy())


def test_large_ranges_are_made_piece_by_piece(tmp_path: Path) -> None:
    state = {NAME: codes(1100, 700), SCALES: scales(9, 6)}
    with dequantised(write_model(tmp_path, state, quantization_config=FP8)) as model:
        expected = state[NAME].float() * spread(state[SCALES], (128, 128), (1100, 700))
        assert torch.equal(value_of(model, NAME), expected)


def test_scales_go_and_all_else_stays_as_it_is(tmp_path: Path) -> None:
    own = cast(random_state(1))
    own[NAME] = codes(128, 128)
    extra = {SCALES: scales(1, 1), NAME.replace("weight", "activation_scale"): torch.tensor(0.5)}
    folder = write_model(tmp_path, own | extra, quantization_config=FP8, torch_dtype="bfloat16")
    with dequantised(folder) as model:
        assert model.tensors.keys() == own.keys()
        assert model.derived == "fp8, dequantised"
        assert model.config is not None
        assert "quantization_config" not in model.config
        assert "torch_dtype" not in model.config
        assert model.config["dtype"] == "float32"
        stored = contents(model)
    for name, tensor in own.items():
        if name != NAME:
            assert stored[name] == tensor.view(torch.uint8).numpy().tobytes()


def test_what_the_text_part_s_config_says_counts_and_goes(tmp_path: Path) -> None:
    said = {"quantization_config": {**FP8, "weight_block_size": [2, 4]}, "dtype": "bfloat16"}
    state = {NAME: codes(3, 8), SCALES: scales(2, 2)}
    folder = write_model(tmp_path, state, text_config={**said, "hidden_size": 8})
    with dequantised(folder) as model:
        assert model.config is not None
        assert model.config["text_config"] == {"hidden_size": 8}
        expected = state[NAME].float() * spread(state[SCALES], (2, 4), (3, 8))
        assert torch.equal(value_of(model, NAME), expected)
    with pytest.raises(QuantisedCheckpoint, match="quantised with fp8"):
        open_checkpoint(str(folder))


def test_without_being_asked_they_are_refused_and_the_option_is_named(tmp_path: Path) -> None:
    state = {NAME: codes(128, 128), SCALES: scales(1, 1)}
    for config in ({"quantization_config": FP8}, {}):
        folder = write_model(tmp_path / str(len(config)), state, **config)
        with pytest.raises(QuantisedCheckpoint, match="--dequantize"):
            open_checkpoint(str(folder))


def test_what_is_not_quantised_is_read_as_ever(tmp_path: Path) -> None:
    folder = write_model(tmp_path, cast(random_state(1)))
    with dequantised(folder) as model, open_checkpoint(str(folder)) as plain:
        assert contents(model) == contents(plain)
        assert model.derived is None


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({NAME: codes(128, 128)}, "has no scales"),
        ({NAME: codes(128, 128), SCALES: scales(7, 3)}, r"has scales of shape \[7, 3\]"),
        ({NAME: codes(128, 128), SCALES: torch.ones(1, 1, dtype=torch.int32)}, "has scales of I32"),
        ({NAME: codes(256, 256), SCALES: scales(1, 2)}, r"has scales of shape \[1, 2\]"),
        ({NAME + "x": codes(1), SCALES: scales(1, 1)}, "is missing"),
        ({NAME: torch.ones(128, 64, dtype=torch.int8), SCALES: scales(1, 1)}, "is I8"),
        ({NAME: torch.ones(128, 64, dtype=torch.int8)}, "is I8 and may be 4-bit codes"),
        ({NAME: codes(128, 128).to(torch.float8_e4m3fnuz), SCALES: scales(1, 1)}, "is F8_E4M3FNUZ"),
    ],
    ids=[
        "no scales",
        "other shape",
        "not the block of the config",
        "no weight",
        "integers",
        "4 bits",
        "4 bits without scales",
        "other codes",
    ],
)
def test_what_cannot_be_dequantised_is_refused_by_name(
    tmp_path: Path, state: State, problem: str
) -> None:
    folder = write_model(tmp_path, state, quantization_config=FP8)
    with pytest.raises(QuantisedCheckpoint, match=problem) as refused:
        dequantised(folder)
    assert NAME in str(refused.value)


@pytest.mark.parametrize("method", ["compressed-tensors", "fbgemm_fp8", "modelopt"])
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_another_method_is_refused_by_name_whatever_its_tensors_are_called(
    tmp_path: Path, method: str, key: str
) -> None:
    state = {NAME: codes(128, 128), SCALES: scales(1, 1)}
    folder = write_model(tmp_path, state, **{key: {"quant_method": method}})
    with pytest.raises(QuantisedCheckpoint, match=f"quantised with {method}"):
        dequantised(folder)


@pytest.mark.filterwarnings("error")
def test_products_that_are_not_finite_are_data(tmp_path: Path) -> None:
    state = {
        NAME: codes(2, 300, dtype=torch.float8_e5m2),
        SCALES: torch.tensor([[3e38, float("inf"), float("nan")]]),
    }
    with dequantised(write_model(tmp_path, state, quantization_config=FP8)) as model:
        found = value_of(model, NAME)
    expected = state[NAME].float() * spread(state[SCALES], (128, 128), (2, 300))
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert found.isinf().any()


def test_a_block_beyond_the_weight_takes_no_more_than_the_weight(tmp_path: Path) -> None:
    said = {**FP8, "weight_block_size": [(1 << 31) - 1, (1 << 31) - 1]}
    state = {NAME: codes(4, 4), SCALES: scales(1, 1)}
    with dequantised(write_model(tmp_path, state, quantization_config=said)) as model:
        assert torch.equal(value_of(model, NAME), state[NAME].float() * state[SCALES])
