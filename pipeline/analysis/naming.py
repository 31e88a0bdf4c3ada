"""Where in a model a tensor sits, by its name: its layer, what kind of part it belongs to, its module.

Names are those of Hugging Face's models; one that follows no custom is of the group "other".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.analysis.report import Group

_LAYERS = {"layers", "layer", "h", "blocks", "block"}  # what a layer's number stands behind
_LAST = {"weight", "bias"}
# In this order: a norm inside attention is a norm, and an MLP's expert is no attention.
_KINDS: tuple[tuple[Group, re.Pattern[str]], ...] = (
    ("norm", re.compile(r"norm|layernorm|(^|\.)ln(_\w+)?(\.|$)")),
    ("embedding", re.compile(r"embed|lm_head|(^|\.)(wte|wpe|word_embeddings|output_layer)(\.|$)")),
    (
        "mlp",
        re.compile(r"mlp|expert|moe|feed_forward|ffn|(^|\.)(c_|)(fc|gate|up|down|w)\d?(_proj)?(\.|$)"),
    ),
    ("attention", re.compile(r"attn|attention|(^|\.)([qkvo]|qkv)_?proj(\.|$)")),
)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a tensor sits. layer: None outside of layers. module: "q_proj"."""

    layer: int | None
    group: Group
    module: str


def seat_of(name: str) -> Seat:
    """The seat of the tensor called `name`."""
    parts = name.split(".")
    known = [part for part in parts if part not in _LAST]
    words = [part for part in known if not part.isdigit()] or [name]
    lowered = ".".join(words).lower()
    group: Group = next((kind for kind, pattern in _KINDS if pattern.search(lowered)), "other")
    return Seat(_layer(parts), group, words[-1])


def _layer(parts: list[str]) -> int | None:
    """The number behind the first part that says "layers", if it can be one."""
    for before, number in pairwise(parts):
        if before.lower() in _LAYERS and re.fullmatch(r"[0-9]{1,5}", number):
            return int(number)
    return None
