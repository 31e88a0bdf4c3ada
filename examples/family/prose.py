"""The two sets of prose that the family reads, and their held-out parts.

Set 1, `docstrings`: docstrings of the standard library of the Python that runs this module.
Set 2, `topics`: the language reference, as the standard library ships it for `help()`.

Both are under the Python Software Foundation licence (LICENSES.md). Source files that speak of a
copyright or a licence of their own are left out, because their docstrings may not be the
foundation's. The order is fixed by names and hashes, so a Python release always gives one text.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics as reference_topics

HELD_OUT_SHARE = 0.05
HELD_OUT_CHARACTERS = 20_000
MINIMUM_CHARACTERS = 60
SEPARATOR = "\n\f\n"

# Tests and bundled tools: either not prose, or not the foundation's own.
SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
OWN_LICENCE = re.compile(r"copyright|licen[cs]e", re.IGNORECASE)


@dataclass(frozen=True)
class Prose:
    """Documents to train on, and documents of the same kind that training never sees."""

    train: list[str]
    held_out: list[str]

    def digest(self) -> str:
        """SHA-256 of the training documents, to tell whether two runs read the same text."""
        return hashlib.sha256(SEPARATOR.join(self.train).encode()).hexdigest()


def _position(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _split(documents: list[str]) -> Prose:
    """Hold whole documents out, and drop from the rest every paragraph seen before.

    Inherited docstrings and topics that contain other topics repeat paragraphs; without this
    step a held-out paragraph could stand in a training document.
    """
    chosen = sorted(documents, key=_position)
    held_out: list[str] = []
    limit = min(HELD_OUT_CHARACTERS, HELD_OUT_SHARE * sum(map(len, documents)))
    while chosen and sum(map(len, held_out)) < limit:
        held_out.append(chosen.pop(0))
    seen = {paragraph.strip() for text in held_out for paragraph in text.split("\n\n")}
    train = []
    for text in documents:
        paragraphs = [part for part in text.split("\n\n") if part.strip() not in seen]
        seen.update(part.strip() for part in paragraphs)
        if len(kept := "\n\n".join(paragraphs)) >= MINIMUM_CHARACTERS:
            train.append(kept)
    return Prose(train=train, held_out=held_out)


def _docstrings_of(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8", errors="replace")
    if OWN_LICENCE.search(source):
        return []
    try:
        tree = ast.parse(source)
    except SyntaxError:  # Templates and deliberately broken files.
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [text for text in found if text and len(text) >= MINIMUM_CHARACTERS]


def docstrings() -> Prose:
    """Set 1: docstrings of the standard library, in the order of the files' paths."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    kept = [path for path in paths if not SKIPPED_FOLDERS.intersection(path.parts)]
    return _split([text for path in kept for text in _docstrings_of(root / path)])


def topics() -> Prose:
    """Set 2: the language reference, one document for each section, in the order of names."""
    documents = []
    for name in sorted(reference_topics):
        sections = re.split(r"\n(?=[^\n]+\n[*=]{4,}\n)", reference_topics[name])
        documents += [part.strip() for part in sections if len(part) >= MINIMUM_CHARACTERS]
    return _split(list(dict.fromkeys(documents)))


def write_held_out(folder: Path, sets: dict[str, Prose]) -> None:
    """Write each set's held-out documents to one file, separated by form feeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, prose in sets.items():
        text = SEPARATOR.join(prose.held_out) + "\n"
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def read_held_out(folder: Path, name: str) -> list[str]:
    """The documents that `write_held_out` wrote for one set."""
    return (folder / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n").split(SEPARATOR)
