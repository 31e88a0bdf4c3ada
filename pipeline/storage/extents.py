"""The ranges that a writer has received, so that a commit can prove that none is missing."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import CorruptFile


@dataclass(slots=True)
class Extents:
    """The ranges that a writer has received, so that a commit can prove that none is missing."""

    sizes: dict[int, int] = field(default_factory=dict)  # offset -> bytes

    def add(self, offset: int, nbytes: int) -> None:
        """Note that `nbytes` were written at `offset`."""
        self.sizes[offset] = nbytes

    def ordered(self, *, where: str) -> list[tuple[int, int]]:
        """All (offset, bytes) in order. Raises CorruptFile if they leave a hole or overlap."""
        end = 0
        ordered = sorted(self.sizes.items())
        for offset, nbytes in ordered:
            if offset != end:
                what = f"bytes {min(end, offset)}..{max(end, offset)} were written never or twice"
                raise CorruptFile(what, where=where, hint="please report this as a bug")
            end = offset + nbytes
        return ordered
