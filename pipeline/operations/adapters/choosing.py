"""Which tensors of a delta become factors of an adapter, which go into it whole, and which can't."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.deltas.delta import Delta
from pipeline.deltas.manifest import TensorRecord
from pipeline.errors import UsageError

_WEIGHT, _BIAS = ".weight", ".bias"
_EMBEDDING = re.compile(r"embed|^(wte|wpe|shared|word_embeddings)$")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_MAX_PROGRAM_BYTES = 1 << 20


@dataclass(frozen=True)
class Choice:
    """What becomes of a delta's tensors.

    factors: matrices of linear layers, in the delta's order. whole: parameters that the adapter holds
    as post has them. left_out: a line for each other that changed. biases: whether some of `whole` are
    biases of layers among `factors`. experts: names of those of `factors` that are experts', and must
    have one rank.
    """

    factors: Sequence[TensorRecord]
    whole: Sequence[TensorRecord]
    left_out: Sequence[str]
    biases: bool
    experts: frozenset[str]

    @property
    def targets(self) -> list[str]:
        """The modules that have factors."""
        return [module_of(record) for record in self.factors]

    @property
    def saved(self) -> list[str]:
        """The modules that are held whole."""
        targets = set(self.targets)
        return list(dict.fromkeys(m for r in self.whole if (m := module_of(r)) not in targets))


def module_of(record: TensorRecord) -> str:
    """The module that a parameter is of."""
    return record.name.rpartition(".")[0]


def choose(delta: Delta, *, only: str | None, skip: str | None, whole: bool) -> Choice:
    """Sort the tensors of `delta` that changed.

    only, skip: regular expressions; a tensor counts if its name has a match of the one and none of the
    other. whole: whether what can't be factors is taken whole. Raises UsageError for no expression, or
    if nothing is left to be factors.
    """
    wanted, unwanted = _compile(only), _compile(skip)
    records = [stored.record for stored in delta.tensors.values()]
    factors: list[TensorRecord] = []
    others: list[TensorRecord] = []
    left_out: list[str] = []
    for record in records:
        if (only and not wanted.search(record.name)) or (skip and unwanted.search(record.name)):
            left_out += [f"{record.name}: not asked for"] * bool(record.changed)
        elif is_linear(record) and (record.changed or _EXPERT.search(record.name)):
            factors.append(record)
        elif record.changed:
            others.append(record)
    if not factors:
        raise UsageError(
            "no matrix of a linear layer has changed that is asked for",
            where=delta.location,
            hint="see `cli.py inspect`, and --only and --skip",
        )
    kept, refused = _whole(others, {module_of(record) for record in factors}, records, wanted=whole)
    biases = any(
        record.name.endswith(_BIAS) and module_of(record) in _modules(factors) for record in kept
    )
    experts = frozenset(record.name for record in factors if _EXPERT.search(record.name))
    return Choice(factors, kept, [*left_out, *refused], biases, experts)


def is_linear(record: TensorRecord) -> bool:
    """Whether a tensor is, by its name and shape, the weight of a linear layer."""
    last = module_of(record).rpartition(".")[2]
    is_matrix = len(record.shape) == 2 and record.shape == record.base_shape and min(record.shape) > 0
    float_matrix = is_matrix and record.post.is_float and record.name.endswith(_WEIGHT)
    return float_matrix and not _EMBEDDING.search(last)


def _modules(records: Sequence[TensorRecord]) -> set[str]:
    return {module_of(record) for record in records}


def _whole(
    others: Sequence[TensorRecord], targets: set[str], records: Sequence[TensorRecord], *, wanted: bool
) -> tuple[list[TensorRecord], list[str]]:
    """What can be held whole, all parameters of its module with it, and lines on what is not."""
    refused = []
    modules: dict[str, None] = {}
    kept = []
    for record in others:
        is_parameter = record.name.endswith((_WEIGHT, _BIAS)) and record.post.is_float
        if not wanted:
            refused.append(f"{record.name}: not a linear layer's matrix (with --base it is held whole)")
        elif not is_parameter:
            refused.append(f"{record.name}: no module's weight or bias")
        elif module_of(record) in targets:
            kept.append(record)
        else:
            modules[module_of(record)] = None
    kept += [record for record in records if module_of(record) in modules]
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
