"""Windows over a text: those of lm-evaluation-harness; and side by side over two readings of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality.pairing import Read, pair_windows
from pipeline.quality.windows import BATCH_TOKENS, batches, rolling_windows

PREFIX = -7


def harness_windows(tokens: list[int], length: int) -> list[tuple[list[int], list[int]]]:
    """What `loglikelihood_rolling` gives to its model, after its source: inputs and targets."""
    if not tokens:
        return []
    first = min(length, len(tokens))
    pairs = [([PREFIX, *tokens[: first - 1]], tokens[:first])]
    done = first
    while done < len(tokens):
        count = min(len(tokens) - done, length)
        end = done + count
        pairs.append((tokens[end - length - 1 : end - 1], tokens[end - count : end]))
        done += count
    disjoint = [(a[: len(a) - (len(b) - 1)], b) for a, b in pairs]
    return [((a + b)[-(length + 1) :][:-1], b) for a, b in disjoint]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 50), st.integers(1, 12))
def test_windows_are_those_of_the_harness(count, length):
    tokens = list(range(count))
    found = [(list(w.inputs), list(w.targets)) for w in rolling_windows(0, tokens, PREFIX, length)]
    assert found == harness_windows(tokens, length)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 3000), max_size=30), st.integers(1, 9))
def test_batches_hold_every_item_once_and_few_tokens(sizes, most):
    found = list(batches(sizes, most, size=int))
    assert sorted(size for rows in found for size in rows) == sorted(sizes)
    for rows in found:
        assert len(rows) <= most
        assert len(rows) == 1 or len(rows) * max(rows) <= BATCH_TOKENS


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)), st.integers(1, 8))
def test_positions_are_paired_where_the_same_bytes_were_read_and_each_once(ours, theirs, length):
    text = bytes(range(61))
    sides = [sorted({*cuts, 61}) for cuts in (ours, theirs)]
    model, reference = (Read(ends, ends, PREFIX) for ends in sides)  # a token's id is where it ends
    found = []
    for pair in pair_windows(3, model, reference, length):
        assert pair.longest <= length
        for side, window, places in (
            (model, pair.model, pair.ours),
            (reference, pair.reference, pair.theirs),
        ):
            assert list(window.targets) == list(side.ids[window.begin :][: len(window.targets)])
            assert len(window.inputs) >= len(window.targets)
            assert max(places) < len(window.targets)
        starts = [0, *model.ends], [0, *reference.ends]
        for i, j in zip(pair.ours, pair.theirs, strict=True):
            i, j = i + pair.model.begin, j + pair.reference.begin
            assert starts[0][i] == starts[1][j] < len(text)
            found.append(starts[0][i])
    assert sorted(found) == sorted({0, *sides[0]} & {0, *sides[1]} - {61})
