"""Etags: the service's names for what a blob holds, under which it may be read, replaced or deleted."""

from __future__ import annotations

from typing import Any, NewType

Etag = NewType("Etag", str)  # in quotes, as conditions want it


def etag_of(blob: Any) -> Etag:
    """The etag of what the SDK says of a blob; in lists it has no quotes."""
    return Etag('"' + str(blob.etag).strip('"') + '"')
