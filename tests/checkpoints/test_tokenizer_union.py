"""A tokenizer takes in another's added tokens: the library gives them just the ids that were chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers_for_tests import added_token, words

from pipeline.checkpoints.tokenizer_union import own_tokens, with_own

TARGET = words(["a", "b"], {"<x>": 2, "<y>": 3})
SOURCE = words(["a", "b"], {"<own>": 2, "<more>": 3})


def dump(tokenizer: dict[str, Any]) -> bytes:
    return json.dumps(tokenizer).encode()


def union(target: bytes, own: list[tuple[str, int]]) -> Tokenizer:
    found, left = own_tokens(own, [dump(SOURCE)], target)
    assert left == []
    return Tokenizer.from_str(with_own(target, found).decode())


@pytest.mark.parametrize("ids", [(4, 5), (5, 4), (4, 9), (70, 7)], ids=str)
def test_all_tokens_have_their_ids_with_gaps_and_without(ids):
    made = union(dump(TARGET), [("<own>", ids[0]), ("<more>", ids[1])])
    assert made.encode("a <own> b <y> <more> <x>").ids == [0, ids[0], 1, 3, ids[1], 2]


def test_without_a_gap_nothing_but_the_added_tokens_changes():
    found, _ = own_tokens([("<own>", 4)], [dump(SOURCE)], dump(TARGET))
    made = json.loads(with_own(dump(TARGET), found))
    own = {**added_token("<own>", 4)}
    assert made == {**TARGET, "added_tokens": [*TARGET["added_tokens"], own]}


def test_a_tokenizer_that_took_in_tokens_behind_a_gap_takes_in_more():
    """As a result does that is a post, or a base, of the next step."""
    first, _ = own_tokens([("<own>", 9)], [dump(SOURCE)], dump(TARGET))
    again = union(with_own(dump(TARGET), first), [("<more>", 10)])
    assert again.encode("a <own> b <y> <more> <x>").ids == [0, 9, 1, 3, 10, 2]


def test_a_list_of_pieces_takes_tokens_only_right_behind_all_others():
    pieces = Tokenizer(Unigram([("a", -1.0), ("b", -2.0)], unk_id=0))
    target = pieces.to_str().encode()
    assert union(target, [("<own>", 2)]).token_to_id("<own>") == 2
    assert own_tokens([("<own>", 3)], [dump(SOURCE)], target) == ((), ["<own>"])


def test_ordinary_tokens_and_those_without_a_tokenizer_are_left():
    own = [("b", 5), ("<own>", 6)]
    found, left = own_tokens(own, [dump(SOURCE)], dump(TARGET))
    assert ([each.token for each in found], left) == (["<own>"], ["b"])
    assert own_tokens(own, [None], dump(TARGET)) == ((), ["b", "<own>"])
    assert own_tokens(own, [dump(SOURCE)], None) == ((), ["b", "<own>"])


@pytest.mark.parametrize(
    "own", [[("<own>", 3)], [("<own>", 1)], [("<x>", 7)], [("<own>", 3), ("<x>", 9)]], ids=str
)
def test_neither_an_id_nor_a_token_is_given_twice(own):
    source = words(["a"], {"<own>": 1, "<x>": 2})
    assert own_tokens(own, [dump(source)], dump(TARGET)) == ((), [token for token, _ in own])


def test_tokens_behind_a_gap_do_not_keep_others_out_of_a_list_of_pieces():
    target = Tokenizer(Unigram([("a", -1.0)], unk_id=0)).to_str().encode()
    found, left = own_tokens([("<own>", 1), ("<more>", 5)], [dump(SOURCE)], target)
    assert ([each.token for each in found], left) == (["<own>"], ["<more>"])


def test_an_id_that_a_list_of_pieces_skips_is_given_to_nobody():
    """The library would give the next one, and then the wrong one to whatever follows."""
    target = {**words(["a"], {"<x>": 2}), "model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}}
    own = [("<own>", 1), ("<more>", 4)]
    assert own_tokens(own, [dump(SOURCE)], dump(target)) == ((), ["<own>", "<more>"])
