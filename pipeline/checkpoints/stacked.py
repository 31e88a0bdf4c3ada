"""Experts of a mixture that lie apart on one side and as one tensor on the other.

transformers 5 holds the experts of a layer in tensors of three dimensions, and writes them so or apart.
What it puts one behind another as it is has the same bytes in either form, so a view of them is enough.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING

from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.experts import count_experts
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.ties import Names, Shape
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import Bytes, DType

if TYPE_CHECKING:
    from pipeline.checkpoints.architecture import Renamed


@dataclass(frozen=True)
class Stack:
    """Tensors of one format, one behind another as one tensor; see `Derivation`."""

    parts: Sequence[tuple[Entry, Reader]]
    shape: Shape

    @property
    def dtype(self) -> DType:
        """That of all parts."""
        return self.parts[0][0].dtype

    @property
    def readers(self) -> Sequence[Reader]:
        """Those of all parts."""
        return [reader for _, reader in self.parts]

    @property
    def recipe(self) -> str:
        """Which parts, in their order."""
        return f"stack {[(entry, reader.name) for entry, reader in self.parts]}"

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((entry.nbytes for entry, _ in self.parts), initial=0))

    def fill(self, start: int, out: Bytes) -> None:
        """See `Derivation`."""
        at = start * self.dtype.itemsize
        while len(out):
            number = bisect_right(self._starts, at) - 1
            entry, reader = self.parts[number]
            have = min(len(out), self._starts[number + 1] - at)
            reader.read_into(entry.offset + at - self._starts[number], out[:have].data)
            out, at = out[have:], at + have


def with_experts_as(model: Checkpoint, names: Names) -> tuple[Checkpoint, tuple[str, ...]]:
    """`model` with its experts in the form, and under the names, that `names` has; and a line for each.

    Where they lie in another order or shape there, they are left as they are.
    """
    over = [name for name in model.tensors if name not in names.shapes]
    new = [name for name in names.shapes if name not in model.tensors]
    if not over or not new or count_experts(model.config) is None:
        return model, ()
    from pipeline.checkpoints.architecture import Architecture

    ours, theirs = Architecture.of(model.config), Architecture.of(names.config)
    if ours is None or theirs is None:
        return model, ()
    mine, yours = ours.rename(over, ours.prefix_for(theirs)), theirs.rename(new, theirs.prefix_for(ours))
    tensors, stacks, lines = dict(model.tensors), {}, []
    for whole, parts in _groups(yours, mine):
        sources = [tensors[name] for name in parts]
        forms = {source.entry.dtype for source in sources}
        if len(forms) == 1 and _lie_so([s.entry.shape for s in sources], names.shapes[whole]):
            stacks[whole] = Stack(
                [(s.entry, model.readers[s.file]) for s in sources], names.shapes[whole]
            )
            lines.append(f"{len(parts)} tensors, {parts[0]} first, are {whole} in post")
            tensors = {name: source for name, source in tensors.items() if name not in parts}
    for whole, parts in _groups(mine, yours):
        shapes = [names.shapes[name] for name in parts]
        if _lie_so(shapes, tensors[whole].entry.shape):
            lines.append(f"{whole} is {len(parts)} tensors in post, {parts[0]} first")
            tensors |= _cut(tensors.pop(whole), dict(zip(parts, shapes, strict=True)))
    file = DerivedReader(f"{model.location}, experts stacked", stacks)
    tensors |= {entry.name: Source(entry, len(model.readers)) for entry in file.entries}
    readers = [*model.readers, file] if stacks else model.readers
    return replace(model, tensors=tensors, readers=readers), tuple(lines)


def _groups(
    wholes: Mapping[str, Renamed], parts: Mapping[str, Renamed]
) -> Iterator[tuple[str, list[str]]]:
    """Each of `wholes` that lies apart among `parts`: its name and theirs, in their order.

    None of which an expert lacks what others have.
    """
    found: dict[tuple[str, str], dict[tuple[int, int], str]] = {}
    for name, each in parts.items():
        if each.part is not None:
            found.setdefault(each.key, {})[each.part] = name
    for name, each in wholes.items():
        group = {} if each.fused else found.get(each.key, {})
        experts, kinds = ({place[axis] for place in group} for axis in (0, 1))
        if group and experts == set(range(len(experts))) and len(group) == len(experts) * len(kinds):
            yield name, [group[place] for place in sorted(group)]


def _lie_so(parts: Sequence[Shape], whole: Shape) -> bool:
    """Whether matrices one behind another are a tensor of that shape, as many for each expert."""
    each, rest = divmod(len(parts), whole[0] if whole and whole[0] else len(parts) + 1)
    if rest or len(whole) != 3 or any(len(shape) != 2 or shape[1] != whole[2] for shape in parts):
        return False
    rows = [sum(shape[0] for shape in parts[at : at + each]) for at in range(0, len(parts), each)]
    return set(rows) == {whole[1]}


def _cut(whole: Source, shapes: Mapping[str, Shape]) -> dict[str, Source]:
    """The parts of a tensor by name, one behind another: ranges of its bytes."""
    found, offset, dtype = {}, whole.entry.offset, whole.entry.dtype
    for name, shape in shapes.items():
        found[name] = Source(Entry(name, dtype, shape, offset), whole.file)
        offset += prod(shape) * dtype.itemsize
    return found
