"""numpy's linear algebra kept to one thread while workers, which are threads already, call it.

OpenBLAS has a thread for each core spin on every call: with several workers, or beside other processes,
that takes many times the work itself. Its own function says how many; it is found in the library that
numpy's wheels bring. Where there is none, nothing is changed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within this, a call of linear algebra stays in the thread that makes it."""
    found = _functions()
    if found is None:
        yield
        return
    get, put = found
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


def _functions() -> tuple[Any, Any] | None:
    """The functions that get and set the number of threads, if numpy brought its own OpenBLAS."""
    folder = Path(np.__file__).parents[1] / "numpy.libs"
    for path in folder.glob("*openblas*"):
        library = ctypes.CDLL(str(path))  # the one that numpy has loaded
        for name in _NAMES:
            get, put = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
            if get is not None and put is not None:
                return get, put
    return None
