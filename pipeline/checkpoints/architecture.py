"""What transformers knows of an architecture: its defaults, and what its tensors are called.

A class of transformers is made from a config without weights, on torch's meta device, and asked for its
own mapping of names (`get_model_conversion_mapping`, with `rename_source_key`, as `from_pretrained` uses
them; transformers 5.23). So two checkpoints that were saved by different versions, or one of which is
the text part of the other, meet under names that neither they nor we have made up.

Nothing is fetched and no code from outside runs: only classes that transformers itself has, from a
config whose keys that name implementations or backbones are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.policy import Config
from pipeline.checkpoints.strict_json import is_deep

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_MAX_COUNT = 1024  # layers, experts and the like: with more, a class would take long to make
_COUNTED = ("layers", "layer", "depth", "depths", "blocks", "experts", "stages", "labels")
# Keys by which a config may name code or files elsewhere, or a format that matters not here.
_LEFT_OUT = ("implementation", "auto_map", "quantization", "dtype", "kernel", "_name_or_path")
_FETCHING = ("backbone", "timm", "pretrained_model")


@dataclass(frozen=True)
class Renamed:
    """What a tensor is called by its architecture.

    key: equal for tensors that are the same parameter. fused: whether it is only a part of that one.
    part: the expert, and the place in it, of one that lies in a row with all others there; else None.
    """

    key: tuple[str, str]
    fused: bool
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Architecture:
    """A class of transformers without weights. parts: model type and path of each model inside it."""

    model: PreTrainedModel
    model_type: str
    parts: Mapping[str, str]

    @classmethod
    def of(cls, config: Config | None) -> Architecture | None:
        """The architecture that `config` names, else its type's body; None if transformers has none."""
        made = _config(config)
        names = (config or {}).get("architectures")
        if made is not None and names is None:
            from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

            names = [MODEL_MAPPING_NAMES.get(made.model_type)]
        if made is None or not isinstance(names, list) or not names:
            return None
        import torch
        import transformers
        from transformers.initialization import no_init_weights

        found = getattr(transformers, names[0], None) if isinstance(names[0], str) else None
        if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
            return None
        try:
            with torch.device("meta"), no_init_weights():
                make: Any = found._from_config
                model: PreTrainedModel = make(made, attn_implementation="eager")
        except Exception:  # whatever a class says to a config that is not its own
            return None
        kind = transformers.PreTrainedModel
        inside = {n: m for n, m in model.named_modules() if n and isinstance(m, kind)}
        paths = {m.config.model_type: n for n, m in reversed(inside.items())}
        return cls(model, str(made.model_type), paths)

    def prefix_for(self, other: Architecture) -> str:
        """Where the body that it shares with `other` begins: that of the whole, or of its text part."""
        if other.model_type != self.model_type and other.model_type in self.parts:
            return self.parts[other.model_type] + "."
        prefix = self.model.base_model_prefix
        return f"{prefix}." if prefix and hasattr(self.model, prefix) else ""

    def rename(self, names: list[str], prefix: str) -> dict[str, Renamed]:
        """What each of `names` is to this architecture, told from `prefix` on where it has that."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key

        mapping = get_model_conversion_mapping(self.model)
        converters = [each for each in mapping if isinstance(each, WeightConverter)]
        renamings: Any = [each for each in mapping if not isinstance(each, WeightConverter)]
        wanted, start = self.model.state_dict(), self.model.base_model_prefix
        found = {}
        for name in names:
            own, pattern = rename_source_key(name, renamings, converters, start, wanted)
            inside = own.startswith(prefix)
            key = ("body", own.removeprefix(prefix)) if inside else ("", own)
            part = _part(name, pattern, converters) if pattern else None
            found[name] = Renamed(key, pattern is not None, part)
        return found

    def beside(self, text: Architecture, names: list[str]) -> list[str]:
        """Those of `names` that lie outside of the body that it shares with `text`, nor are its head."""
        known = text.model.state_dict()
        found = self.rename(names, self.prefix_for(text))
        return [name for name, each in found.items() if not each.key[0] and each.key[1] not in known]


def _part(name: str, pattern: str, converters: Sequence[Any]) -> tuple[int, int] | None:
    """Where a tensor lies in the one that it is fused into; None unless that is all of them in a row."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    converter = next(each for each in converters if pattern in each.source_patterns)
    patterns = converter.source_patterns
    steps = [(type(each), getattr(each, "dim", None)) for each in converter.operations]
    in_a_row = [(MergeModulelist, 0), (Concatenate, 1)][: len(patterns)]
    numbers = [int(each) for each in name.split(".") if each.isdecimal()]
    if steps != in_a_row or len(converter.target_patterns) != 1 or not numbers:
        return None
    return numbers[-1], patterns.index(pattern)


def default_of(config: Config, key: str) -> Any:
    """What the class of `config` gives `key` where the config does not; None if it is not known."""
    return getattr(_config(config), key, None)


def _config(config: Config | None) -> PretrainedConfig | None:
    """A config as transformers' own class, without what is not about names."""
    kind = (config or {}).get("model_type")
    if (
        not isinstance(kind, str)
        or config is None
        or is_deep(config)
        or _mentions(config, _FETCHING)
        or _counts_much(config)
    ):
        return None
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return None
    try:
        made: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(_clean(config))
    except Exception:  # whatever a class says to values that it does not expect
        return None
    return made


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if not any(word in str(k) for word in _LEFT_OUT)}
        return {key: _clean(each) for key, each in kept.items()}
    return value


def _mentions(value: Any, words: tuple[str, ...]) -> bool:
    """Whether any key, at any depth, has one of `words` in it, and a value."""
    if not isinstance(value, Mapping):
        return False
    return any(
        (each and any(word in str(key) for word in words)) or _mentions(each, words)
        for key, each in value.items()
    )


def _counts_much(value: Any, key: str = "") -> bool:
    """Whether anything, at any depth, is said to be there so often that a loop over it takes long."""
    if isinstance(value, Mapping):
        return any(_counts_much(each, str(name)) for name, each in value.items())
    if isinstance(value, list):
        return any(_counts_much(each, key) for each in value)
    return type(value) is int and value > _MAX_COUNT and key.endswith(_COUNTED)
