"""JSON from outside: what all readers read the same, and not more than there is memory for."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints import strict_json
from pipeline.checkpoints.strict_json import MAX_DEPTH, MAX_VALUES, is_deep, is_too_much, parse_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=10)


@given(JSON, st.booleans())
def test_what_python_writes_is_read(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{}x", "NaN", "[Infinity]", "[-Infinity]", "1e999", "-1e999", '{"a":1,"a":1}',
        '"\\ud800"', '{"\\udc00":1}', '"\\ud800\\ud800"', "[" * 100_000, '{"a":' * 5_000, "9" * 5_000,
        "01", "+1", "'a'", b"\xef\xbb\xbf{}", b"\xff", b'"\xed\xa0\x80"', "{}".encode("utf-16"),
        "{}".encode("utf-32"), '"\n"',
    ],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_what_readers_disagree_about_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text if isinstance(text, bytes) else text.encode())


def test_surrogate_pairs_and_what_looks_like_one_are_read():
    assert parse_json(rb'"\ud83d\ude00 \\ud800 \u00e9"') == "😀 \\ud800 é"


def test_minus_zero_is_no_integer():
    value = parse_json(b'["a-0", -0, -0.0, 0, -10]')
    assert [type(each) for each in value[1:]] == [float, float, int, int]
    assert math.copysign(1, value[1]) == -1


def test_configs_may_say_infinity():
    assert parse_json(b'{"a": [Infinity, 1e999]}', nonfinite=True) == {"a": [math.inf, math.inf]}


def test_more_values_than_memory_bears_are_refused_before_they_are_read():
    data = b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]"
    began = time.perf_counter()
    with pytest.raises(ValueError, match="values"):
        parse_json(data)
    assert time.perf_counter() - began < 2
    assert not is_too_much(b'"' + b"x" * (2 * MAX_VALUES) + b'"')


def test_a_limit_counts_all_marks(monkeypatch):
    monkeypatch.setattr(strict_json, "MAX_VALUES", 8)
    assert parse_json(b'{"a":[1,2,3],"b":1}') == {"a": [1, 2, 3], "b": 1}
    with pytest.raises(ValueError, match="values"):
        parse_json(b'{"a":[1,2,3],"b":[1,2]}')


@pytest.mark.parametrize(
    "wrap", [lambda value: [value], lambda value: {"a": value}], ids=["list", "dict"]
)
def test_json_that_is_nested_too_deep_is_refused(wrap):
    value = 1
    for depth in range(MAX_DEPTH + 3):
        assert is_deep(value) == (depth > MAX_DEPTH)
        value = wrap(value)
