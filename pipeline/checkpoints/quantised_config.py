"""What a config says of how its weights are quantised, wherever in it that stands.

transformers reads `quantization_config` of the config or of its text part (`get_hf_quantizer`), and
records GPTQ, AWQ, bitsandbytes, fp8 and the like there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FP8 = "fp8"
_KEY = "quantization_config"
_OLD_KEY = "compression_config"  # what compressed-tensors called it
_DEPTH = 4  # of parts in parts, as an omni model's thinker has a text part


def stated_quantisations(config: Mapping[str, Any] | None) -> list[Any]:
    """All that a config and its parts say of it; empty where the weights are numbers."""
    return list(_find(config or {}, _DEPTH))


def _find(config: Mapping[str, Any], depth: int) -> Iterator[Any]:
    for key in (_KEY, _OLD_KEY):
        if config.get(key):
            yield config[key]
    for key, part in config.items():
        if isinstance(part, dict) and key not in (_KEY, _OLD_KEY) and depth:
            yield from _find(part, depth - 1)


def method_of(stated: Any) -> str:
    """The name of the method that a statement is of."""
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    return str(method) if method else "an unnamed method"


def is_fp8(config: Mapping[str, Any] | None) -> bool:
    """Whether a config says that its weights are 8-bit floats with scales, and says nothing else."""
    found = stated_quantisations(config)
    return bool(found) and all(method_of(each) == FP8 for each in found)


def fp8_block(config: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Rows and columns that have one scale; None if the config tells none."""
    found = stated_quantisations(config)
    block = found[0].get("weight_block_size") if found and isinstance(found[0], dict) else None
    if not isinstance(block, list) or len(block) != 2:
        return None
    height, width = block
    are_sizes = all(type(size) is int and 0 < size < 1 << 31 for size in block)
    return (height, width) if are_sizes else None


def config_without_codes(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The config of weights that were made float32: whoever loads them is not to round them."""
    return None if config is None else {**_stripped(config, _DEPTH), "dtype": "float32"}


def _stripped(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Without what it says of codes, and of the format that they were to be loaded in."""
    return {
        key: _stripped(part, depth - 1) if isinstance(part, dict) and depth else part
        for key, part in config.items()
        if key not in (_KEY, "torch_dtype", "dtype")
    }
