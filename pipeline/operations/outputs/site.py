"""Pages as output: a folder that appears whole, with what browsers open first in it."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.operations.outputs.places import Place

INDEX = "index.html"


def write_site(place: Place, files: Mapping[str, bytes]) -> None:
    """Publish `files`, by name, as the folder at `place`."""
    with place.create_folder(sum(map(len, files.values()))) as folder:
        for name, content in files.items():
            with folder.create(name, size_hint=len(content)) as writer:
                writer.write(0, content)
                writer.commit()
        folder.publish(sorted(files, key=INDEX.__eq__))  # the page last: it speaks of the others
