r"""Text to measure on: documents from a file of plain text or of JSON lines.

| file | documents |
|---|---|
| `.jsonl`, `.ndjson` | one a line: a JSON object whose "text" is the document; other keys are ignored |
| `.txt`, `.text`, `.md` | the whole file, or what lies between lines of a form feed alone (`\f`) |

Blank lines do not separate documents: prose is full of them. The line end that closes a file of plain
text belongs to no document, and neither do those around a form feed; a byte order mark is dropped.
Everything else is measured as it stands. Empty documents are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.checkpoints.files import read_file
from pipeline.checkpoints.strict_json import parse_json
from pipeline.errors import CorruptFile, UsageError
from pipeline.settings import Settings
from pipeline.storage.locations import Location, Scheme, parse_model
from pipeline.storage.opening import open_parent
from pipeline.tensors.fingerprint import digest_bytes

LINES_ENDINGS = (".jsonl", ".ndjson")
PLAIN_ENDINGS = (".txt", ".text", ".md")
_SEPARATOR = re.compile(r"\r?\n\f\r?\n")
_LAST_LINE_END = re.compile(r"\r?\n\Z")
_HINT = 'write plain text (.txt), or a JSON object with "text" on each line (.jsonl)'


@dataclass(frozen=True, slots=True)
class TextSet:
    """Documents to measure on. name: for figures, a word. digest: BLAKE3 of the file, hexadecimal."""

    name: str
    digest: str
    documents: Sequence[str]

    @property
    def nbytes(self) -> int:
        """Bytes of all documents in UTF-8."""
        return sum(len(document.encode()) for document in self.documents)


def read_texts(location: str, *, settings: Settings | None = None, name: str | None = None) -> TextSet:
    """The documents of the file at `location`: a path, az://…, https://… or file://….

    name: of the set; else the file's, without its ending. At most 256 MiB are read. Raises UsageError
    for an ending that says nothing, NotFound, AccessError, and CorruptFile for what is not text.
    """
    where = _place(location)
    ending = PurePosixPath(where.path).suffix.lower()
    if ending not in LINES_ENDINGS + PLAIN_ENDINGS:
        raise UsageError("its name does not say what kind of text it is", where=str(where), hint=_HINT)
    store, file = open_parent(where, settings or Settings.load())
    data = read_file(store, file)
    shown = str(where)
    found = _lines(data, shown) if ending in LINES_ENDINGS else _plain(data, shown)
    documents = tuple(document for document in found if document)
    if not documents:
        raise CorruptFile("holds no text", where=shown, hint=_HINT)
    word = re.sub(r"[^\w-]", "_", name or PurePosixPath(where.path).stem)
    return TextSet(word, str(digest_bytes(data)), documents)


def _place(location: str) -> Location:
    """Where a data file is: unlike a model's, a plain name is a local path."""
    where = parse_model(location) if "://" in location else Location(Scheme.LOCAL, location)
    if where.scheme is Scheme.HUB:
        hint = "download it first, and name the file"
        raise UsageError("data are not read from the Hub", where=str(where), hint=hint)
    return where


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        raise CorruptFile(what, where=where, hint="convert the file to UTF-8") from error


def _plain(data: bytes, where: str) -> list[str]:
    return _SEPARATOR.split(_LAST_LINE_END.sub("", _decode(data, where)))


def _lines(data: bytes, where: str) -> Iterator[str]:
    _decode(data, where)
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, nonfinite=True)
        except ValueError as error:
            raise CorruptFile(f"line {number} is not JSON: {error}", where=where, hint=_HINT) from error
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise CorruptFile(f'line {number} has no "text"', where=where, hint=_HINT)
        yield text
