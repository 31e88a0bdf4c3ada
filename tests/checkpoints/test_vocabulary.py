"""A tokenizer's tokens, read from files of several kinds; what is odd is of no known form."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers_for_tests import added_token, words

from pipeline.checkpoints.vocabulary import Vocabulary, read_vocabulary

TOKENS = {"<unk>": 0, "a": 1, "b": 2, "ab": 3}


def read(text: object) -> Vocabulary | None:
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return read_vocabulary({"tokenizer.json": data})


@pytest.mark.parametrize(
    "model",
    [
        BPE(TOKENS, [("a", "b")], unk_token="<unk>"),
        WordPiece(TOKENS, unk_token="<unk>"),
        WordLevel(TOKENS, unk_token="<unk>"),
        Unigram([(token, 0.0) for token in TOKENS], unk_id=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_librarys_tokens_are_read_added_ones_too(model):
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    tokenizer.add_tokens(["word"])
    found = read(tokenizer.to_str().encode())
    assert found is not None
    assert found.ids == tokenizer.get_vocab()
    assert found.tokens == {number: token for token, number in found.ids.items()}
    assert found.added == {0, 4, 5}
    assert [found.ordinary(number) for number in (0, 1, 4, 9)] == [False, True, False, False]


def test_the_family_of_examples_is_read():
    from sources import ROOT

    folder = ROOT / "examples" / "family" / "post-v1"
    found = read((folder / "tokenizer.json").read_bytes())
    assert found is not None
    assert found.ids == Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()


def test_without_tokenizer_json_the_older_files_are_read():
    files = {"vocab.json": b'{"a": 0, "b": 1}', "added_tokens.json": b'{"<s>": 2}'}
    found = read_vocabulary(files)
    assert found is not None
    assert (found.ids, found.added) == ({"a": 0, "b": 1, "<s>": 2}, {2})
    assert read_vocabulary({"added_tokens.json": b"{}"}) is None
    assert read_vocabulary({}) is None


def changed(**model: object) -> dict[str, object]:
    made = words(["a", "b"])
    return {**made, "model": {**made["model"], **model}}


@pytest.mark.parametrize(
    "odd",
    [
        b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"model": {"vocab": {"a": 0, "a": 1}}}',
        b'{"model": {"vocab": {"\\ud800": 0}}}', b'{"model": {"vocab": {"a": NaN}}}',
        changed(vocab=3), changed(vocab={"a": "0"}), changed(vocab={"a": True}),
        changed(vocab={"a": 0.0}),
        changed(vocab={"a": -1}), changed(vocab={"a": 1 << 24}), changed(vocab={"a": 10**400}),
        changed(vocab={"a": 0, "b": 0}), changed(vocab=[["a", 0.0], ["a", 0.0]]),
        changed(vocab=[[1, 0.0]]),
        changed(vocab=["abc"]), changed(vocab={"a": [0]}),
        {**words(["a"]), "added_tokens": 3}, {**words(["a"]), "added_tokens": [{}]},
        {**words(["a"]), "added_tokens": [added_token("a", 1)]},
        {**words(["a"]), "added_tokens": [added_token("b", 0)]},
        {**words(["a"]), "added_tokens": [added_token("b", 1), added_token("b", 2)]},
        {**words(["a"]), "added_tokens": [{"content": ["b"], "id": 1}]},
    ],
    ids=lambda odd: repr(odd)[:60],
)  # fmt: skip
def test_a_hostile_tokenizer_is_of_no_known_form(odd):
    assert read(odd) is None
