"""8-bit floats: every code as torch reads it, and scales that belong to their blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.tensors.dtypes import BF16, F16, F32, DType
from pipeline.tensors.float8 import E4M3, E5M2, E8M0, block_of, values_of, widen_scales

TORCH = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2, E8M0: torch.float8_e8m0fnu}


@pytest.mark.parametrize("dtype", TORCH, ids=str)
def test_every_code_is_the_value_that_torch_says(dtype: DType) -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(TORCH[dtype]).float().numpy()
    found = values_of(dtype)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    known = ~np.isnan(expected)
    assert np.array_equal(found[known].view(np.uint32), expected[known].view(np.uint32))


def test_the_specification_s_own_examples_hold() -> None:
    e4m3, e5m2 = values_of(E4M3), values_of(E5M2)
    assert (e4m3[0x7E], e4m3[0x01], e4m3[0x08]) == (448, 2**-9, 2**-6)
    assert (e5m2[0x7B], e5m2[0x01], e5m2[0x04], e5m2[0x7C]) == (57344, 2**-16, 2**-14, np.inf)
    assert np.signbit(e4m3[0x80])


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_scales_of_any_format_are_widened_exactly(dtype: DType) -> None:
    kinds = {F32: torch.float32, BF16: torch.bfloat16, F16: torch.float16}
    scales = torch.tensor([0.0123, 1.0, 3e-5]).to(kinds[dtype])
    found = widen_scales(scales.view(torch.uint8).numpy(), dtype)
    assert found.tolist() == scales.float().tolist()


@pytest.mark.parametrize(
    ("weight", "scales", "configured", "block"),
    [
        ((256, 384), (2, 3), (128, 128), (128, 128)),
        ((576, 300), (5, 3), (128, 128), (128, 128)),  # the last block of each is cut off
        ((256, 384), (2, 3), None, (128, 128)),
        ((256, 384), (1, 1), None, (256, 384)),
        ((256, 384), (), None, (256, 384)),
        ((256, 384), (1,), (128, 128), (256, 384)),
        ((256, 384), (256, 1), None, (1, 384)),
        ((4, 256, 384), (4, 2, 3), (128, 128), (128, 128)),
        ((300,), (), None, (1, 300)),
        ((256, 384), (5, 3), None, None),
        ((256, 384), (256,), None, None),
        ((4, 256, 384), (2, 3), (128, 128), None),
        ((4, 256, 384), (3, 2, 3), (128, 128), None),
    ],
)
def test_the_block_of_a_scale_follows_from_the_shapes(
    weight: tuple[int, ...],
    scales: tuple[int, ...],
    configured: tuple[int, int] | None,
    block: tuple[int, int] | None,
) -> None:
    assert block_of(weight, scales, configured) == block
