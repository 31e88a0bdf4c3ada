"""What doctor looks at on this machine: versions, memory, disk, compiled loops.

Each check returns what it found, or raises a PipelineError.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

from pipeline.errors import PipelineError, StorageError
from pipeline.operations.setup import DEFAULT_MEMORY
from pipeline.storage.locations import Location, Scheme
from pipeline.units import GIB, format_bytes, parse_bytes
from pipeline.version import TOOL

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
OLDEST_PYTHON = (3, 11)
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
ROOM_BYTES = GIB  # a delta of a small model; more is said, not asked for


def check_versions(requirements: Path = REQUIREMENTS) -> str:
    """Python, and every package as requirements.txt pins it. Raises PipelineError."""
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise PipelineError(f"Python {python} is too old", hint="use Python 3.11 or newer")
    lines = requirements.read_text().splitlines() if requirements.is_file() else []
    pinned = [match.groups() for line in lines if (match := re.match(r"([\w.-]+)==([\w.]+)", line))]
    wrong = [
        f"{name} {found or 'is missing'} instead of {wanted}"
        for name, wanted in pinned
        if (found := _version(name)) != wanted
    ]
    if wrong:
        hint = "run: pip install -r requirements.txt"
        raise PipelineError("packages differ: " + ", ".join(wrong), hint=hint)
    return f"{TOOL}, Python {python}, {len(pinned)} packages as in {requirements.name}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0]  # torch 2.13.0+cpu is 2.13.0
    except metadata.PackageNotFoundError:
        return None


def check_memory() -> str:
    """Memory that is free for a run with the default budget; a container's own limit counts.

    Raises PipelineError.
    """
    free = _free_memory()
    if free is None:
        return "this system does not say how much is free"
    if free < parse_bytes(DEFAULT_MEMORY):
        hint = f"a run takes {DEFAULT_MEMORY} of buffers unless told otherwise: use --memory 256MiB"
        raise PipelineError(f"only {format_bytes(free)} free", hint=hint)
    return f"{format_bytes(free)} free; --memory is {DEFAULT_MEMORY} by default"


def _free_memory() -> int | None:
    found = []
    try:
        if line := re.search(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text()):
            found.append(int(line[1]) * 1024)
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit.isdigit():
            used = int((_CGROUP / "memory.current").read_text())
            cached = re.search(r"^inactive_file (\d+)", (_CGROUP / "memory.stat").read_text(), re.M)
            found.append(int(limit) - used + int(cached[1] if cached else 0))
    except (OSError, ValueError):
        pass  # another system, or an older one
    return max(min(found), 0) if found else None


def check_disk(store: Location) -> str:
    """Room in the Hub's cache and, if it is a folder, in the store; both can be written.

    Raises StorageError.
    """
    from huggingface_hub import constants

    places = {"Hub cache": Path(constants.HF_HUB_CACHE)}
    if store.scheme is Scheme.LOCAL:
        places["store"] = Path(store.path).absolute()
    said = []
    for name, path in places.items():
        folder = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(folder).free
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise StorageError("cannot be written", where=str(folder), hint=_instead(name))
        if free < ROOM_BYTES:
            raise StorageError(f"only {format_bytes(free)} free", where=str(path), hint=_instead(name))
        said.append(f"{format_bytes(free)} free for the {name} ({path})")
    return ", ".join(said)


def _instead(name: str) -> str:
    return "name another place in HF_HOME" if name == "Hub cache" else "name another place by --store"


def check_kernels() -> str:
    """The compiled loops of the arithmetic and of the codec load, and count right.

    Raises PipelineError.
    """
    import numpy as np

    from pipeline.codecs.kernels import has_vectors
    from pipeline.tensors.kernels import widen_bf16

    try:
        vectors = has_vectors()
        out = np.empty(4, np.float32)
        widen_bf16(np.array([0x3F80, 0xBF80, 0, 0x4049], np.uint16), out)
    except Exception as error:  # numba, the compiler, the cache of machine code: whatever it may be
        raise PipelineError(
            f"the compiled loops do not load: {type(error).__name__}: {error}",
            hint="run: pip install -r requirements.txt; and see that ~/.cache can be written",
        ) from error
    if out.tolist() != [1.0, -1.0, 0.0, 3.140625]:
        raise PipelineError("the compiled loops do not count right", hint="empty ~/.cache and try again")
    return f"the compiled loops work{', with vectors' if vectors else ', without vectors'}"
