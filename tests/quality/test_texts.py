"""Files of text to measure on: what a document is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3
from clouds import Cloud
from quality.text_models import FAMILY

from pipeline.errors import CorruptFile, NotFound, UsageError
from pipeline.quality.texts import read_texts


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_a_plain_file_is_one_document_blank_lines_and_all(tmp_path):
    texts = read_texts(write(tmp_path, "prose.txt", "one\n\n\ntwo\n"))
    assert texts.documents == ("one\n\n\ntwo",)
    assert (texts.name, texts.nbytes) == ("prose", 9)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_a_form_feed_alone_separate_documents(tmp_path, end):
    content = f"one{end}more{end}\f{end}two\fthree{end}\f{end}{end}\f{end}four{end}"
    documents = read_texts(write(tmp_path, "x.txt", content)).documents
    assert documents == (f"one{end}more", "two\fthree", "four")


def test_the_family_s_held_out_documents_are_read_as_they_were_written():
    content = (FAMILY / "heldout" / "topics.txt").read_text(encoding="utf-8")
    documents = read_texts(str(FAMILY / "heldout" / "topics.txt")).documents
    assert list(documents) == content.rstrip("\n").split("\n\f\n")
    assert len(documents) == 12


def test_json_lines_have_a_text_each(tmp_path):
    lines = [json.dumps({"text": "a\n\f\nb", "id": 1}), "", '{"text": ""}', '{"text": "ä"}']
    path = write(tmp_path, "set.of.x.jsonl", b"\xef\xbb\xbf" + "\n".join(lines).encode())
    texts = read_texts(path)
    assert texts.documents == ("a\n\f\nb", "ä")
    assert texts.name == "set_of_x"
    assert texts.digest == blake3(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.txt", b"fine\xff", "byte 4 is not UTF-8"),
        ("x.txt", b"\n", "holds no text"),
        ("x.jsonl", b'{"text": "a"}\n{"text": ', "line 2 is not JSON"),
        ("x.jsonl", b'{"text": "a"}\n["text"]', 'line 2 has no "text"'),
        ("x.jsonl", b'{"text": 5}', 'line 1 has no "text"'),
        ("x.jsonl", b'{"text": "\\ud800"}', "line 1 is not JSON"),
        ("x.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(tmp_path, name, content, what):
    with pytest.raises(CorruptFile, match=what):
        read_texts(write(tmp_path, name, content))


def test_a_name_must_say_what_the_file_is_and_name_a_file(tmp_path):
    with pytest.raises(UsageError, match="does not say what kind of text"):
        read_texts(write(tmp_path, "x.csv", "a"))
    with pytest.raises(UsageError, match="not read from the Hub"):
        read_texts("hf://org/data.txt")
    with pytest.raises(NotFound):
        read_texts(str(tmp_path / "none.txt"))


def test_a_file_in_a_container_is_read_like_any_other(cloud: Cloud):
    cloud.client.upload_blob("sets/held.txt", b"one\n\f\ntwo\n")
    assert read_texts(f"{cloud.location}/sets/held.txt").documents == ("one", "two")
