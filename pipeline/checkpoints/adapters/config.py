"""adapter_config.json: what of it changes the merged weights, and what we can't do by name.

Source: `peft.LoraConfig`, release 0.21.2. PEFT ignores keys that it does not know; so may a key that
we don't know mean anything. Whatever is set and is not listed here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import CorruptFile, NotACheckpoint

MAX_RANK = 1 << 20
_MAX_PATTERNS = 100_000
_MAX_PATTERN_CHARACTERS = 1000
_MAX_PROGRAM_BYTES = 1 << 20

_MERGE = "merge it with PEFT's `merge_and_unload`, and give the merged model"
# What may stand there without any change to the merged weights, however it is set.
_NEUTRAL = {
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "modules_to_save", "peft_type", "peft_version", "r",
    "rank_pattern", "alpha_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "qalora_group_size", "use_dora", "use_rslora",
}  # fmt: skip
_REASONS = {
    "layer_replication": "repeats layers",
    "trainable_token_indices": "trains single tokens",
    "target_parameters": "adapts parameters that are no module's weight, as fused experts are",
    "lora_bias": "adds biases to its factors",
    "alora_invocation_tokens": "is active only behind certain tokens: it can't be merged",
}
# Ways to begin that leave the base as it is. The others (pissa, olora, corda, loftq, …) change it.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Patterns:
    """Values by patterns of module names, the first that matches counting, as PEFT has it."""

    items: Sequence[tuple[Any, float]]

    def get(self, module: str, default: float) -> float:
        """The value for a module. PEFT: `re.match(rf"(.*\\.)?({key})$", module)`."""
        return next((value for key, value in self.items if key.fullmatch(module)), default)


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter's config says of its merged weights.

    rank, alpha: where no pattern says otherwise. base, revision: what it was trained on, as it says.
    targets: names, or ends of names, of the modules that have factors, or a pattern; None for any.
    """

    rank: int
    alpha: float
    ranks: Patterns
    alphas: Patterns
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    ensure_tying: bool
    targets: Any
    base: str | None
    revision: str | None

    @classmethod
    def parse(cls, content: Any, *, where: str) -> Self:
        """The config written as `content`.

        Raises NotACheckpoint with everything that we can't merge, and CorruptFile for values that mean
        nothing.
        """
        if not isinstance(content, dict):
            raise CorruptFile("is not a JSON object", where=where)
        if reasons := list(_reasons(content)):
            raise NotACheckpoint(
                f"is an adapter that is not merged here: {'; '.join(reasons)}",
                where=where,
                hint=_MERGE,
            )
        try:
            return cls(
                rank=_rank(content["r"]),
                alpha=_number(content["lora_alpha"]),
                ranks=_patterns(content.get("rank_pattern"), _rank),
                alphas=_patterns(content.get("alpha_pattern"), _number),
                use_rslora=_flag(content.get("use_rslora")),
                use_dora=_flag(content.get("use_dora")),
                fan_in_fan_out=_flag(content.get("fan_in_fan_out")),
                ensure_tying=_flag(content.get("ensure_weight_tying")),
                targets=_targets(content.get("target_modules")),
                base=_text(content.get("base_model_name_or_path") or "") or None,
                revision=_text(content.get("revision") or "") or None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"is no LoRA config: {error}", where=where, hint=_MERGE) from error

    def is_target(self, module: str) -> bool:
        """Whether PEFT gives this module factors. It ignores those of any other."""
        if isinstance(self.targets, list):
            return any(module == name or module.endswith(f".{name}") for name in self.targets)
        return self.targets is None or self.targets.fullmatch(module) is not None

    def rank_of(self, module: str) -> int:
        """The rank of a module's factors."""
        return int(self.ranks.get(module, self.rank))

    def scaling(self, module: str) -> float:
        """What the product of a module's factors is multiplied by: alpha / r, or alpha / √r."""
        rank = self.rank_of(module)
        return self.alphas.get(module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def _reasons(content: Mapping[str, Any]) -> Iterator[str]:
    """Why it can't be merged here."""
    kind = content.get("peft_type")
    if kind != "LORA":
        yield f"peft_type is {kind!r}, not LORA"
    beginning = content.get("init_lora_weights")
    if not any(beginning is plain or beginning == plain for plain in _PLAIN_BEGINNINGS):
        yield f"init_lora_weights is {beginning!r}, which may change the base"
    if content.get("bias", "none") not in ("none", "all", "lora_only"):
        yield f"bias is {content['bias']!r}"
    for key in sorted(content.keys() - _NEUTRAL):
        if content[key] not in (None, False, "", [], {}):
            yield f"{key} is set" + (f": it {_REASONS[key]}" if key in _REASONS else "")


def _patterns(content: Any, read: Any) -> Patterns:
    if not content:
        return Patterns(())
    if not isinstance(content, dict) or len(content) > _MAX_PATTERNS:
        raise ValueError("a pattern is not a value by name")
    return Patterns([(_compile(key), read(value)) for key, value in content.items()])


def _targets(value: Any) -> Any:
    """Names, or a pattern. None where the tensors must tell: RE2 has not all that Python's `re` has."""
    if isinstance(value, list):
        return [_text(name) for name in value]
    if value is None or _text(value).lower() == "all-linear":
        return None
    try:
        return _compile(value, before="")
    except ValueError:
        return None


def _compile(pattern: str, before: str = r"(?:.*\.)?") -> Any:
    import re2

    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        raise ValueError("a pattern is too long")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM_BYTES
    try:
        return re2.compile(f"{before}(?:{pattern})", options)
    except (re2.error, UnicodeEncodeError) as error:
        raise ValueError(f"{pattern!r} is not a pattern that RE2 takes") from error


def _rank(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ValueError(f"{value!r} is not a rank")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _flag(value: Any) -> bool:
    if value not in (None, True, False):
        raise ValueError(f"{value!r} is neither true nor false")
    return bool(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not text")
    return value
