"""Which tensor of a base a module of an adapter is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint

# Architectures whose layers are `transformers.pytorch_utils.Conv1D`: weights as (in, out). Their heads
# are linear. The config's fan_in_fan_out does not tell: PEFT itself corrects it by the layer's class.
_CONV1D = {"decision_transformer", "gpt2", "imagegpt", "openai-gpt"}
HEAD = "lm_head"


class Places:
    """The names of a base's tensors, with or without the model's own prefix before them.

    A checkpoint may be of the model under its head, as GPT-2's is: `h.0…` for `transformer.h.0…`.
    """

    def __init__(self, base: Checkpoint) -> None:
        self._names = base.tensors.keys()
        self._ends: dict[str, str | None] = {}
        for name in self._names:
            end = name.partition(".")[2]
            self._ends[end] = None if end in self._ends else name

    def find(self, name: str) -> str | None:
        """What the base calls it; None if it has it not, or not clearly."""
        if name in self._names:
            return name
        short = name.partition(".")[2]
        return short if short in self._names else self._ends.get(name)


def is_conv1d(config: Mapping[str, Any] | None, module: str) -> bool:
    """Whether the module's weight is (in, out) rather than (out, in)."""
    kind = (config or {}).get("model_type")
    return kind in _CONV1D and module.rpartition(".")[2] != HEAD
