"""Which tensors of a delta become factors of an adapter, which go into it whole, and which can't."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.adapters.naming import Loaded
from pipeline.checkpoints.alignment import is_absent
from pipeline.deltas.delta import Delta
from pipeline.deltas.manifest import TensorRecord
from pipeline.errors import UsageError

_WEIGHT, _BIAS = ".weight", ".bias"
_EMBEDDING = re.compile(r"embed|^(wte|wpe|shared|word_embeddings)$")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_ROUTER = ".gate.weight"
# What PEFT 0.21.2 refuses to adapt, whatever is asked for (`_check_lora_target_modules_mamba`).
_MAMBAS = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
_UNADAPTED = "out_proj"
_MAX_PROGRAM_BYTES = 1 << 20


@dataclass(frozen=True)
class Choice:
    """What becomes of a delta's tensors.

    factors: matrices of linear layers, in the delta's order. whole: parameters that the adapter holds
    as post has them. left_out: a line for each other that changed. experts: names of those of `factors`
    that are experts' or routers', and must have one rank. loaded: what PEFT finds all of them under.
    """

    factors: Sequence[TensorRecord]
    whole: Sequence[TensorRecord]
    left_out: Sequence[str]
    experts: frozenset[str]
    loaded: Loaded

    @property
    def targets(self) -> list[str]:
        """The modules that have factors."""
        return [self.loaded.module(record.name) for record in self.factors]

    @property
    def saved(self) -> list[str]:
        """The modules that are held whole."""
        modules = [self.loaded.module(record.name) for record in self.whole]
        return [module for module in dict.fromkeys(modules) if module not in set(self.targets)]

    @property
    def biases(self) -> bool:
        """Whether some of `whole` are biases of layers among `factors`."""
        return any(self.loaded.module(record.name) in set(self.targets) for record in self.whole)


def choose(delta: Delta, *, only: str | None, skip: str | None, whole: bool) -> Choice:
    """Sort the tensors of `delta` that changed.

    only, skip: regular expressions; a tensor counts if its name has a match of the one and none of the
    other. whole: whether what can't be factors is taken whole. Raises UsageError for no expression, or
    if nothing is left to be factors.
    """
    wanted, unwanted = _compile(only), _compile(skip)
    records = [stored.record for stored in delta.tensors.values()]
    rows = delta.manifest.base_rows
    reordered = frozenset(rows.tensors if rows else ())  # no product can put base's rows elsewhere
    config = delta.manifest.post_config
    loaded = Loaded.of(config, delta.tensors)
    stacked = _stacked(delta.tensors)
    factors: list[TensorRecord] = []
    others: list[TensorRecord] = []
    left_out: list[str] = []
    for record in records:
        if (only and not wanted.search(record.name)) or (skip and unwanted.search(record.name)):
            left_out += [f"{record.name}: not asked for"] * bool(record.changed)
        elif (
            record.name not in reordered
            and is_linear(record, loaded, config, stacked)
            and (record.changed or _EXPERT.search(record.name))
        ):
            factors.append(record)
        elif record.changed:
            others.append(record)
    if not factors:
        raise UsageError(
            "no matrix of a linear layer has changed that is asked for",
            where=delta.location,
            hint="see `cli.py inspect`, and --only and --skip",
        )
    targets = {_module_of(record) for record in factors}
    kept, refused = _whole(others, targets, records, wanted=whole)
    experts = stacked.intersection(record.name for record in factors)
    return Choice(factors, kept, [*left_out, *refused], experts, loaded)


def is_linear(
    record: TensorRecord, loaded: Loaded, config: Mapping[str, Any] | None, stacked: frozenset[str]
) -> bool:
    """Whether a tensor is the weight of a linear layer that PEFT adapts.

    Its module's class tells, where transformers has one of it; else its name and shape.
    """
    is_matrix = len(record.shape) == 2 and record.shape == record.base_shape and min(record.shape) > 0
    if not is_matrix or not record.post.is_float or not record.name.endswith(_WEIGHT):
        return False
    if record.name in stacked:
        return True
    last = loaded.module(record.name).rpartition(".")[2]
    if last == _UNADAPTED and (config or {}).get("model_type") in _MAMBAS:
        return False
    known = loaded.is_linear(record.name)
    return known if known is not None else not _EMBEDDING.search(last)


def _stacked(names: Iterable[str]) -> frozenset[str]:
    """Experts' matrices, and their routers': PEFT on transformers 5 takes these as one module's."""
    experts = {name for name in names if _EXPERT.search(name)}
    routers = {name[: name.index(".experts.")] + _ROUTER for name in experts}
    return frozenset(experts | routers)


def _module_of(record: TensorRecord) -> str:
    """The module that a parameter is of, in the delta's own names."""
    return record.name.rpartition(".")[0]


def _above(module: str) -> Iterator[str]:
    """The modules that a module is in."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _whole(
    others: Sequence[TensorRecord], targets: set[str], records: Sequence[TensorRecord], *, wanted: bool
) -> tuple[list[TensorRecord], list[str]]:
    """What can be held whole, all parameters of its module with it, and lines on what is not."""
    refused = []
    modules: dict[str, None] = {}
    kept = []
    above = {part for each in records for part in _above(_module_of(each))}
    for record in others:
        is_parameter = record.name.endswith((_WEIGHT, _BIAS)) and record.post.is_float
        if is_absent(record.base_shape, record.shape):
            refused.append(f"{record.name}: the base has no such module to be adapted")
        elif not is_parameter:
            refused.append(f"{record.name}: no module's weight or bias")
        elif _module_of(record) in above:
            refused.append(f"{record.name}: its module has others in it, which PEFT would want whole")
        elif not wanted:
            refused.append(f"{record.name}: not a linear layer's matrix (with --base it is held whole)")
        elif _module_of(record) in targets:
            kept.append(record)
        else:
            modules[_module_of(record)] = None
    kept += [record for record in records if _module_of(record) in modules]
    return kept, refused


def _compile(pattern: str | None) -> Any:
    """The compiled expression. Raises UsageError."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM_BYTES
    try:
        return re2.compile(pattern or "", options)
    except (re2.error, UnicodeEncodeError) as error:
        raise UsageError(f"{pattern!r} is not a regular expression that RE2 takes") from error


def patterns(ranks: Mapping[str, int], default: int) -> Iterator[tuple[str, int]]:
    """PEFT's rank_pattern: an entry for each module whose rank is not `default`.

    PEFT matches `(.*\\.)?(key)$`: the caret makes it this very module, and no other that ends so.
    """
    for module, rank in ranks.items():
        if rank != default:
            yield f"^{re.escape(module)}", rank
