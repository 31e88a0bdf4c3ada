"""Number formats: their names, their sizes, and what may be done with them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import save

from pipeline.errors import UsageError
from pipeline.tensors.dtypes import (
    BF16,
    BY_NAME,
    F16,
    F32,
    F64,
    TORCH_NAMES,
    Kind,
    compute_dtype,
    parse_dtype,
)


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_each_format_has_the_name_and_size_that_safetensors_gives_it(name):
    dtype = TORCH_NAMES[name]
    tensor = torch.zeros(3, dtype=torch.uint8).to(getattr(torch, name))
    assert dtype.itemsize == dtype.bits.itemsize == tensor.element_size()
    assert f'"dtype":"{dtype.name}"'.encode() in save({"t": tensor})
    assert BY_NAME[dtype.name] is dtype


@pytest.mark.parametrize("dtype", BY_NAME.values(), ids=str)
def test_a_format_that_was_copied_or_sent_to_another_process_is_the_same(dtype):
    assert pickle.loads(pickle.dumps(dtype)) is copy.deepcopy(dtype) is dtype


def test_only_floats_of_16_to_64_bits_are_arithmetic():
    floats = {name for name, dtype in BY_NAME.items() if dtype.is_float}
    assert floats == {"BF16", "F16", "F32", "F64"}
    coded = {name for name, dtype in BY_NAME.items() if dtype.kind is Kind.CODED}
    assert coded == {name for name in BY_NAME if name.startswith("F8_")}
    assert coded


def test_arithmetic_is_done_in_float32_unless_an_operand_is_float64():
    assert compute_dtype(BF16, F16) is F32
    assert compute_dtype(F32) is F32
    assert compute_dtype(BF16, F64, F32) is F64


def test_formats_are_asked_for_by_torchs_names():
    names = ("bfloat16", "float16", "float32", "float64")
    assert [parse_dtype(name) for name in names] == [BF16, F16, F32, F64]
    assert parse_dtype("auto") is None


@pytest.mark.parametrize("text", ["", "bf16", "BF16", "int8", "float8_e4m3fn", "double", "auto "])
def test_other_names_are_refused_with_those_that_are_known(text):
    with pytest.raises(UsageError, match="bfloat16, float16, float32"):
        parse_dtype(text)
