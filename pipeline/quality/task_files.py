"""Task files of EleutherAI's harness from a folder of the user's: read as data, or refused.

The harness takes YAML as a program: `!function` imports Python beside the file, `class` and some metrics
fetch or import more, templates are not sandboxed. Nothing of that is run here. What the installed
package brings itself is trusted as the package is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from pipeline.errors import CorruptFile, NotFound
from pipeline.units import MIB

_MAX_FILE_BYTES = MIB
_MAX_FILES = 10_000
# What makes the harness import, fetch or run code.
_REFUSED = frozenset(
    {"class", "custom_dataset", "hf_evaluate", "trust_remote_code", "unsafe_code", "use_prompt"}
)
_HINT = "only tasks that say all in plain YAML are run: no !function, no Python"


def check_folder(folder: str, metrics: Collection[str]) -> str:
    """See that no task file in `folder` or what it includes can run code; BLAKE3 of them all, in hex.

    metrics: those that the harness has itself; others it would fetch. Raises NotFound, and CorruptFile
    for a file with a YAML tag, or a key or metric that stands for code.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise NotFound("no such folder of task files", where=folder)
    found = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix == ".yaml")
    if not found or len(found) > _MAX_FILES:
        raise NotFound(f"{len(found)} task files (*.yaml) are there", where=folder)
    digest = blake3()
    seen: set[Path] = set()
    while found:
        path = found.pop(0)
        if path in seen:
            continue
        seen.add(path)
        data = _read(path, root)
        digest.update(str(path.relative_to(root)).encode() + b"\0" + blake3(data).digest())
        raw = _parse(data, path)
        _refuse_code(raw, path, metrics)
        found += [(path.parent / name).resolve() for name in _included(raw, path)]
    return digest.hexdigest()


def _read(path: Path, root: Path) -> bytes:
    if not path.resolve().is_relative_to(root):
        raise CorruptFile("lies outside of the folder of task files", where=str(path), hint=_HINT)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NotFound(f"can't be read: {error.strerror}", where=str(path)) from error
    if len(data) > _MAX_FILE_BYTES:
        raise CorruptFile("is too large for a task file", where=str(path))
    return data


def _parse(data: bytes, path: Path) -> Any:
    """The YAML as plain data. Tags, by which YAML becomes a program, are refused before it is read."""
    import yaml

    try:
        for event in yaml.parse(data, Loader=yaml.SafeLoader):
            tag = getattr(event, "tag", None)
            if tag is not None:
                what = f"has the YAML tag {tag!r} on line {event.start_mark.line + 1}"
                raise CorruptFile(what, where=str(path), hint=_HINT)
            if isinstance(event, yaml.AliasEvent):  # a few of them make more than memory holds
                raise CorruptFile("has YAML aliases", where=str(path), hint="write it out")
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CorruptFile(f"is not YAML: {error}", where=str(path)) from error


def _refuse_code(raw: Any, path: Path, metrics: Collection[str]) -> None:
    for key, value in _pairs(raw):
        if key in _REFUSED and value not in (False, None):
            raise CorruptFile(f"{key!r} stands for code", where=str(path), hint=_HINT)
        if key == "metric" and not (isinstance(value, str) and value in metrics):
            what = f"{value!r} is no metric of the harness itself: it would fetch it"
            raise CorruptFile(what, where=str(path), hint=f"known: {', '.join(sorted(metrics))}")


def _pairs(raw: Any) -> Iterator[tuple[Any, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(raw, list):
        for each in raw:
            yield from _pairs(each)


def _included(raw: Any, path: Path) -> list[str]:
    names = raw.get("include") if isinstance(raw, Mapping) else None
    listed = names if isinstance(names, list) else [names] * (names is not None)
    if not all(isinstance(name, str) and not Path(name).is_absolute() for name in listed):
        raise CorruptFile("includes what is no name of a file beside it", where=str(path), hint=_HINT)
    return listed
