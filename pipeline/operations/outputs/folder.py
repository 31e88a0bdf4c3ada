"""Folders of small files as output: pages, analyses, sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.operations.outputs.places import Place


def write_folder(place: Place, files: Mapping[str, bytes | Path]) -> None:
    """Publish `files`, contents or where these lie, by name, as the folder at `place`.

    It appears as a whole; the last file is the one that speaks of the others.
    """
    sizes = (each.stat().st_size if isinstance(each, Path) else len(each) for each in files.values())
    with place.create_folder(sum(sizes)) as folder:
        for name, each in files.items():
            content = each.read_bytes() if isinstance(each, Path) else each
            with folder.create(name, size_hint=len(content)) as writer:
                writer.write(0, content)
                writer.commit()
        folder.publish(list(files))
