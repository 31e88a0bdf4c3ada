"""Which tensor of a base a module of an adapter is, and what PEFT finds a tensor's module under.

PEFT names modules as they are in a loaded model. Files may have other names (`h.0…` of GPT-2's body,
`embed_out` of GPT-NeoX, `language_model.model…` of older multimodal models), which transformers' own
mapping turns into those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.checkpoints.architecture import Architecture
from pipeline.checkpoints.checkpoint import Checkpoint

# The layers that are `transformers.pytorch_utils.Conv1D`, by model type: weights as (in, out). The
# config's fan_in_fan_out does not tell: PEFT itself corrects it by the layer's class.
_WITH_CONV1D = {"decision_transformer", "gpt2", "imagegpt", "openai-gpt"}
_CONV1D = {"c_attn", "c_fc", "c_proj", "q_attn"}


class Places:
    """The names of a base's tensors, with or without the model's own prefix before them.

    A checkpoint may be of the model under its head, as GPT-2's is: `h.0…` for `transformer.h.0…`.
    """

    def __init__(self, base: Checkpoint) -> None:
        self._names = base.tensors.keys()
        self._config = base.config
        self._ends: dict[str, str | None] = {}
        for name in self._names:
            end = name.partition(".")[2]
            self._ends[end] = None if end in self._ends else name

    def find(self, name: str) -> str | None:
        """What the base calls it; None if it has it not, or not clearly."""
        if name in self._names:
            return name
        short = name.partition(".")[2]
        return short if short in self._names else self._ends.get(name) or self._files.get(name)

    @cached_property
    def _files(self) -> Mapping[str, str]:
        """The base's names by those of the loaded model; asked only where the names alone don't tell."""
        return {loaded: name for name, loaded in Loaded.of(self._config, self._names).names.items()}


@dataclass(frozen=True)
class Loaded:
    """Tensors of files as they are in the model that transformers loads from them.

    names: the parameter that each becomes; those left out keep their names, or become parts of others.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    architecture: Architecture | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, names: Iterable[str]) -> Loaded:
        """Those of a checkpoint with this config. It takes importing transformers."""
        architecture = Architecture.of(config)
        if architecture is None:
            return cls()
        found = architecture.rename(list(names), "")
        return cls({name: each.key[1] for name, each in found.items() if not each.fused}, architecture)

    def name(self, name: str) -> str:
        """The parameter that the tensor `name` becomes."""
        return self.names.get(name, name)

    def module(self, name: str) -> str:
        """The module that this parameter is of."""
        return self.name(name).rpartition(".")[0]

    def copies(self, parameter: str) -> list[str] | None:
        """The parameters that the model ties to this one; None where its classes don't tell."""
        if self.architecture is None:
            return None
        ties: Mapping[str, str] = self.architecture.model.all_tied_weights_keys
        return [name for name, source in ties.items() if source == parameter]

    def is_linear(self, name: str) -> bool | None:
        """Whether it is the weight of a linear layer; None where the model's classes don't tell."""
        if self.architecture is None or name not in self.names:
            return None
        from torch.nn import Linear
        from transformers.pytorch_utils import Conv1D

        try:
            module = self.architecture.model.get_submodule(self.module(name))
        except AttributeError:
            return None
        return isinstance(module, Linear | Conv1D)


def is_conv1d(config: Mapping[str, Any] | None, module: str) -> bool:
    """Whether the module's weight is (in, out) rather than (out, in)."""
    kind = (config or {}).get("model_type")
    return kind in _WITH_CONV1D and module.rpartition(".")[2] in _CONV1D
