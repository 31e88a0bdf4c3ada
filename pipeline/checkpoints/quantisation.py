"""Recognise checkpoints whose numbers are codes, and refuse them by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.checkpoints.header import Entry
from pipeline.errors import QuantisedCheckpoint
from pipeline.tensors.dtypes import Kind

_HINT = "use the original bf16 or fp32 weights, or dequantise them first"


def refuse_quantised(location: str, config: Mapping[str, Any] | None, entries: Iterable[Entry]) -> None:
    """Raise QuantisedCheckpoint, naming the method or a tensor, if the weights are quantised.

    `quantization_config` is where transformers records GPTQ, AWQ, bitsandbytes, FP8 and the like.
    """
    quantisation = (config or {}).get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        raise QuantisedCheckpoint(
            f"is quantised with {method or 'an unnamed method'}", where=location, hint=_HINT
        )
    for entry in entries:
        if entry.dtype.kind is Kind.CODED:
            raise QuantisedCheckpoint(
                f"tensor {entry.name!r} is {entry.dtype}: its values mean nothing without scales",
                where=location,
                hint=_HINT,
            )
