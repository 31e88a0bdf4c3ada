"""Answers are kept one by one, and read back to hold two models together."""

import json
import math
from dataclasses import asdict

import pytest

from pipeline.errors import CorruptFile
from pipeline.quality.items import Item, pair_items, read_items, to_line

ITEM = Item("set", "count", "1", 1.0, "ab", "two\n", True, None, False, ())
CHOSEN = Item("set", "water", "2", 0.0, "cd", "dry", None, 1.0, True, (-1.5, math.inf))


def test_what_was_kept_is_read():
    text = "\n".join(to_line(asdict(each)) for each in (ITEM, CHOSEN)).encode()
    one, two = read_items(text, where="items")
    assert one == ITEM
    assert asdict(two) | {"log_likelihoods": ()} == asdict(CHOSEN) | {"log_likelihoods": ()}
    assert two.log_likelihoods[0] == -1.5 and math.isnan(two.log_likelihoods[1])  # null in strict JSON


def test_documents_between_the_answers_are_passed_over():
    data = b'{"data": "prose", "document": 0, "nats": 1.5}\n' + to_line(asdict(ITEM)).encode()
    assert read_items(data, where="items") == [ITEM]


@pytest.mark.parametrize(
    "line", ["{", "[]x", '{"task": 1}', json.dumps({**asdict(ITEM), "score": "x"}), "1"]
)
def test_a_line_that_is_none_is_named(line):
    good = to_line(asdict(ITEM))
    with pytest.raises(CorruptFile, match="items: line 2 is no item"):
        read_items(f"{good}\n{line}".encode(), where="items")


def test_two_models_meet_at_the_same_question():
    other = [Item("set", "count", str(number), 0.0) for number in (3, 2, 1)]
    (pair,) = pair_items([ITEM], other)
    assert pair.left is ITEM and pair.right is other[2]
