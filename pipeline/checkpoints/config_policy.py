"""What two configs must agree on, whose value counts where they do not, and a table of it all.

A key that decides what the weights mean must be equal: a model with twice the heads of half the size has
tensors of the same shapes. Everything else is listed. The new base's value counts, but for the ids of
tokens, which belong to post's tokenizer, and for what somebody decides by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.policy import UNREMARKABLE, Config, vocab_size, with_vocab_size
from pipeline.checkpoints.ties import untied
from pipeline.errors import Mismatch, UsageError

BASE, POST = "base", "post"
ABSENT = "absent"
_TEXT = "text_config"
_DOTTED = _TEXT + "."  # before a key of the text part, in tables, messages and choices
_TEXT_KIND = _DOTTED + "model_type"
_MAX_SHOWN = 200  # characters of a value

# Keys that say how the weights are used: shapes, heads, norms, activations, experts. Names are those of
# transformers 5.23's configs, their older spellings among them. What is not here (RoPE, context length,
# sliding windows, dropout, initialisation, caching, whatever is new) is the new base's and is listed.
_MUST_AGREE = (
    "model_type", "architectures",
    "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "num_layers",
    "num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "n_inner", "d_ff", "ffn_dim",
    "hidden_act", "hidden_activation", "activation_function", "hidden_activations",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "layernorm_epsilon",
    "attention_bias", "mlp_bias", "qkv_bias", "use_qk_norm", "qk_norm", "parallel_attn",
    "use_parallel_residual", "layer_types",
    "num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "num_experts_per_tok",
    "moe_intermediate_size", "shared_expert_intermediate_size", "first_k_dense_replace",
    "norm_topk_prob", "scoring_func", "topk_method", "n_group", "topk_group", "routed_scaling_factor",
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
    "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling",
)  # fmt: skip
_COMPUTED = ("head_dim", "num_key_value_heads")  # of other keys, where they say nothing
_KINDS = ("model_type", "architectures")  # without a default


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """One key of two configs and of the result's: values as JSON, or "absent". whose: who decided."""

    key: str
    base: str
    post: str
    result: str
    whose: str


# -- what must agree ------------------------------------------------------------------------------------


def require_one_architecture(
    base: Config | None, post: Config | None, *, where: str, decided: Iterable[str] = (), noun: str
) -> None:
    """Raise Mismatch with every key that would make post's weights mean something else in `base`.

    decided: keys that somebody has chosen a side for. noun: what `base` is to the reader.
    """
    if base is None or post is None:
        return
    ours, theirs, part = _comparable(base, post)
    done = {key.removeprefix(_DOTTED) for key in decided} | ({"architectures"} if part else set())
    keys = [key for key in (*_MUST_AGREE, _TEXT_KIND) if key not in done and key not in set(decided)]
    problems = []
    for key in keys:
        mine, yours = _value(ours, theirs, key), _value(theirs, ours, key)
        if mine != yours:
            problems.append(f"{part}{key} is {_shown(mine)} in {noun}, {_shown(yours)} in post")
    if problems:
        raise Mismatch(
            problems,
            where=where,
            hint="a delta means something only in the architecture that it was made in; where you "
            "know better, --take-config base:KEY or post:KEY decides for one key",
            noun="key of config.json",
        )


def _comparable(base: Config, post: Config) -> tuple[Config, Config, str]:
    """The two configs, or of one that has more than text its text part, if the other is text alone.

    One model type's text part may lie flat in one version's config, as Qwen2-VL's did before 4.52.
    """
    left, right = base.get(_TEXT), post.get(_TEXT)
    is_same_kind = "model_type" in base and base["model_type"] == post.get("model_type")
    if not is_same_kind and isinstance(left, Mapping) and not isinstance(right, Mapping):
        return left, post, _DOTTED
    if not is_same_kind and isinstance(right, Mapping) and not isinstance(left, Mapping):
        return base, right, _DOTTED
    ours, theirs = _flat(base), _flat(post)
    if isinstance(left, Mapping) and isinstance(right, Mapping) and {*left} & {*right} >= {"model_type"}:
        ours[_TEXT_KIND], theirs[_TEXT_KIND] = left["model_type"], right["model_type"]
    return ours, theirs, ""


def _value(config: Config, other: Config, key: str) -> Any:
    """What a config says of `key`, by itself or by its class's default if only the other one says it."""
    if key in config and not (config[key] is None and key in (*_COMPUTED, *_KINDS)):
        return config[key]
    if key not in other or other[key] is None or key in _KINDS:
        return other.get(key)  # who says nothing agrees
    heads = config.get("num_attention_heads")
    if key == "num_key_value_heads" and heads is not None:
        return heads
    size = config.get("hidden_size")
    if key == "head_dim" and type(heads) is type(size) is int and heads:
        return size // heads
    if other[key] is False:
        return False
    from pipeline.checkpoints.architecture import default_of

    default = default_of(config, key)
    return other[key] if default is None else default


# -- whose value counts ---------------------------------------------------------------------------------


def parse_choices(texts: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Sides by key: as they are, or from "base:KEY" and "post:KEY". Raises UsageError."""
    if isinstance(texts, Mapping):
        return dict(texts)
    found: dict[str, str] = {}
    for text in texts:
        side, colon, key = text.partition(":")
        if side not in (BASE, POST) or not colon or not key:
            raise UsageError(
                f"--take-config {text!r} is not base:KEY or post:KEY",
                hint="for example --take-config post:rope_scaling",
            )
        if found.setdefault(key, side) != side:
            raise UsageError(f"--take-config takes {key!r} from both sides", hint="say one of them")
    return found


def check_choices(
    choices: Mapping[str, str], base: Config | None, post: Config | None, *, where: str
) -> None:
    """Raise UsageError for a side that is neither, and for keys that neither config has."""
    known = {key for config in (base, post) for key in (*_flat(config), *_dotted(config or {}), _TEXT)}
    for key, side in choices.items():
        if side not in (BASE, POST):
            raise UsageError(f"{key!r} can't be taken from {side!r}", hint="say base or post")
    if base is None and post is None and choices:
        raise UsageError(
            "--take-config: neither model has a config.json", where=where, hint="leave it out"
        )
    if unknown := sorted(set(choices) - known):
        raise UsageError(
            f"no config has the key {', '.join(map(repr, unknown))}",
            where=where,
            hint=f"a key is taken with all that it holds; known are {', '.join(sorted(known))[:1000]}",
        )


def settle_config(
    config: Config | None,
    base: Config | None,
    post: Config | None,
    *,
    choices: Mapping[str, str],
    is_untied: bool,
) -> dict[str, Any] | None:
    """`config` with what was decided, for a model with as many rows of vocabulary as it says.

    is_untied: whether the result has a head of its own.
    Raises UsageError for a choice that would say another number of rows, or that has no config to go to.
    """
    if config is None:
        if choices:
            raise UsageError(
                "--take-config: the result has no config.json, for the new base has none",
                hint="add the new base's config.json, or leave it out",
            )
        return None
    made, rows = untied(config) if is_untied else dict(config), vocab_size(config)
    for key, side in sorted(
        choices.items(), key=lambda each: each[0] != _TEXT
    ):  # the whole before a part
        made = _take(made, base if side == BASE else post, key)
    if rows is not None and vocab_size(made) != rows:
        if {"vocab_size", _DOTTED + "vocab_size"} & choices.keys():
            raise UsageError(
                f"--take-config: vocab_size can't be {vocab_size(made)}, for the result has {rows} rows",
                hint="leave it out: it follows from the rows",
            )
        made = with_vocab_size(made, rows)
    return made


def _take(config: dict[str, Any], side: Config | None, key: str) -> dict[str, Any]:
    """`config` with that side's value of `key`, or without it if that side has none."""
    text, part = config.get(_TEXT), (side or {}).get(_TEXT)
    if isinstance(text, Mapping) and key.startswith(_DOTTED):
        values = part if isinstance(part, Mapping) else side or {}
        return {**config, _TEXT: _set(text, key.removeprefix(_DOTTED), values)}
    if isinstance(text, Mapping) and key not in config and key != _TEXT:
        return {**config, _TEXT: _set(text, key, _flat(side))}
    return _set(config, key.removeprefix(_DOTTED), _flat(side))


def _set(config: Config, key: str, values: Config) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name != key or key in values}
    return {**kept, key: values[key]} if key in values else kept


def _flat(config: Config | None) -> dict[str, Any]:
    """The keys of a config, those of its text part where it has none of that name."""
    text = (config or {}).get(_TEXT)
    return {**(text if isinstance(text, Mapping) else {}), **(config or {})}


# -- the table --------------------------------------------------------------------------------------


def config_table(
    base: Config | None, post: Config | None, result: Config | None, choices: Mapping[str, str]
) -> tuple[ConfigRow, ...]:
    """A row for each key on which the three do not agree, in the order of the alphabet."""
    if result is None:
        return ()
    sides = [_dotted(config or {}) for config in (base, post, result)]
    rows = []
    for key in sorted({key for side in sides for key in side}):
        if key.removeprefix(_DOTTED) in UNREMARKABLE:
            continue
        ours, theirs, made = (_shown(side[key]) if key in side else ABSENT for side in sides)
        if ours == theirs == made:
            continue
        whose = "the run" if made not in (ours, theirs) else "new base" if made == ours else "post"
        chosen = _chosen(key, choices, sides)
        rows.append(ConfigRow(key, ours, theirs, made, f"{chosen}, as asked" if chosen else whose))
    return tuple(rows)


def _chosen(key: str, choices: Mapping[str, str], sides: Sequence[Config]) -> str | None:
    """The side that somebody has said for a row, by its key or, in a text part, by less than that."""
    bare = key.removeprefix(_DOTTED)
    if key == bare or key in choices:
        return choices.get(key)
    at_top = bare in sides[0] or bare in sides[2]
    return choices.get(_TEXT) if at_top else choices.get(bare, choices.get(_TEXT))


def _dotted(config: Config) -> dict[str, Any]:
    text = config.get(_TEXT)
    if not isinstance(text, Mapping):
        return dict(config)
    rest = {key: value for key, value in config.items() if key != _TEXT}
    return {**rest, **{_DOTTED + key: value for key, value in text.items()}}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
