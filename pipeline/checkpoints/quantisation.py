"""Recognise checkpoints whose numbers are codes, and refuse them by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.quantised_config import is_fp8, method_of, stated_quantisations
from pipeline.errors import QuantisedCheckpoint
from pipeline.tensors.dtypes import Kind
from pipeline.tensors.float8 import CODES

_HINT = "use the original bf16 or fp32 weights, or dequantise them first"
_FP8_HINT = "use the original bf16 or fp32 weights, or --dequantize to have them read as float32"
# How tensors are called that say by themselves what they are, where no config does.
_SPELLINGS = {
    ".qweight": "GPTQ or AWQ",
    ".SCB": "bitsandbytes",
    ".quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
    "_proj_blocks": "MXFP4",
}


def refuse_quantised(location: str, config: Mapping[str, Any] | None, entries: Iterable[Entry]) -> None:
    """Raise QuantisedCheckpoint, naming the methods or a tensor, if the weights are quantised."""
    methods = dict.fromkeys(method_of(each) for each in stated_quantisations(config))
    if methods:
        raise QuantisedCheckpoint(
            f"is quantised with {' and '.join(methods)}",
            where=location,
            hint=_FP8_HINT if is_fp8(config) else _HINT,
        )
    for entry in entries:
        for ending, method in _SPELLINGS.items():
            if entry.name.endswith(ending) and not entry.dtype.is_float:
                raise QuantisedCheckpoint(
                    f"is quantised with {method}: it has a tensor {entry.name!r}",
                    where=location,
                    hint=_HINT,
                )
        if entry.dtype.kind is Kind.CODED:
            raise QuantisedCheckpoint(
                f"tensor {entry.name!r} is {entry.dtype}: its values mean nothing without scales",
                where=location,
                hint=_FP8_HINT if entry.dtype in CODES else _HINT,
            )
