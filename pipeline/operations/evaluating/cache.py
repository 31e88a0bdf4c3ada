"""Results kept from one evaluation to the next, by everything that they depend on.

An entry is a file whose name is the digest of model, data and settings: see `pipeline.cache`. One
that says anything unexpected counts as not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from pipeline.cache import cache_folder, read_cached, write_cached
from pipeline.checkpoints.strict_json import is_deep, parse_json
from pipeline.units import MIB

Record = Mapping[str, Any]

_MAX_ENTRY_BYTES = 256 * MIB
_FORMAT = "paramdelta-results/1"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of results; without a folder, nothing is kept."""

    folder: Path | None

    @classmethod
    def at(cls, place: str | None) -> Self:
        """The cache that people mean: a folder, "off", or by default one in the user's own cache."""
        if place == "off":
            return cls(None)
        if place:
            return cls(Path(place).expanduser())
        return cls(cache_folder("evaluations"))

    def get(self, key: str) -> list[Record] | None:
        """What was kept under `key`: objects of JSON; None if there is nothing to be relied on."""
        if self.folder is None:
            return None
        body = read_cached(self._path(key), most_bytes=_MAX_ENTRY_BYTES)
        if body is None:
            return None
        try:
            records = parse_json(body)
        except ValueError:
            return None
        whole = isinstance(records, list) and not is_deep(records)
        return records if whole and all(isinstance(each, dict) for each in records) else None

    def put(self, key: str, records: Sequence[Record]) -> None:
        """Keep `records` under `key`, if the disk lets us: a cache that can't be written is no error."""
        if self.folder is None:
            return
        try:
            body = json.dumps([*records], ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            return  # NaN: such a model is soon measured again
        write_cached(self._path(key), body)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.json"


def key_of(**parts: Any) -> str:
    """The digest of everything that a result depends on, in hex."""
    text = json.dumps({"format": _FORMAT, **parts}, sort_keys=True, ensure_ascii=False)
    return blake3(text.encode()).hexdigest()
