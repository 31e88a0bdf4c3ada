"""Models to be read that may be LoRA adapters; what an adapter is merged into is then read with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint, open_files
from pipeline.errors import IsAnAdapter
from pipeline.settings import Settings
from pipeline.storage.locations import Scheme, parse_model

if TYPE_CHECKING:
    from pipeline.checkpoints.adapters.weights import Adapter


def open_post(
    location: str, base: Checkpoint, *, settings: Settings | None = None, headers_only: bool = False
) -> Checkpoint:
    """Open the checkpoint, or the adapter of `base`, at `location`. `base` must outlive it.

    Raises what `open_checkpoint` does, and Mismatch for an adapter that is not of `base`.
    """
    settings = settings or Settings.load()
    try:
        return open_checkpoint(location, settings=settings, headers_only=headers_only)
    except IsAnAdapter:
        return _adapted(location, base, settings)


@contextmanager
def open_model(
    location: str,
    *,
    base: str | None = None,
    settings: Settings | None = None,
    headers_only: bool = False,
) -> Iterator[Checkpoint]:
    """The checkpoint at `location`, or the adapter there merged into the checkpoint at `base`.

    Only an adapter makes `base` be opened. All is closed in the end. Raises what `open_post` does, and
    IsAnAdapter for an adapter without a base.
    """
    settings = settings or Settings.load()
    with ExitStack() as stack:
        try:
            model = open_checkpoint(location, settings=settings, headers_only=headers_only)
        except IsAnAdapter:
            if base is None:
                raise
            below = open_checkpoint(base, settings=settings, headers_only=headers_only)
            model = _adapted(location, stack.enter_context(below), settings)
        yield stack.enter_context(model)


def find_adapter(location: str, settings: Settings) -> Adapter:
    """Open the adapter at `location`. Raises what `open_adapter` does."""
    from pipeline.checkpoints.adapters.weights import open_adapter

    where = parse_model(location)
    folder = open_files(where, settings)
    known = f"hf://{where.path}" if where.scheme is Scheme.HUB else str(where)
    return open_adapter(folder, known)


def _adapted(location: str, base: Checkpoint, settings: Settings) -> Checkpoint:
    """The adapter at `location` merged into `base`."""
    from pipeline.checkpoints.adapters.merging import merge  # few posts are adapters

    adapter = find_adapter(location, settings)
    return replace(merge(base, adapter), revision=adapter.revision)
