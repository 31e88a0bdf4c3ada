"""Which tensors of a mixture of experts are its routers: a row for each expert, in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Mixtral and Jamba, the Qwens and OLMoE, the DeepSeeks: as transformers' configs call it.
_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# `mlp.gate`, `block_sparse_moe.gate`, `mlp.router`, `feed_forward.router`; Switch adds `.classifier`.
_ROUTER = re.compile(r"(?:^|\.)(?:gate|router)(?:\.(?:classifier|layer|linear|wg|proj))?(?:\.weight)?\Z")
MOST_EXPERTS = 4096


def count_experts(config: Mapping[str, Any] | None) -> int | None:
    """Experts of a layer, as a config (or a multimodal config's text part) says; None if it has none."""
    config = config or {}
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in _KEYS:
            count = part.get(key)
            if type(count) is int and 1 < count <= MOST_EXPERTS:
                return count
    return None


def is_router(name: str, shape: tuple[int, ...], experts: int | None) -> bool:
    """Whether the tensor `name` gives each of `experts` its score: told by name and shape together."""
    return (
        experts is not None
        and len(shape) == 2
        and shape[0] == experts
        and shape[1] > 0
        and _ROUTER.search(name) is not None
    )
