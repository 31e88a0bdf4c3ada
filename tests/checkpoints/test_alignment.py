"""Which tensors of two checkpoints belong together, and every reason why they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import State, cast, near, random_state, write_model

from pipeline import open_checkpoint
from pipeline.checkpoints.alignment import check_vocabulary, is_grown, pair_up, show
from pipeline.errors import Mismatch

EMBEDDING = "model.embed_tokens.weight"
STATE = cast(random_state(1))


def pair(folder: Path, base: State, post: State, base_config=None, post_config=None):
    """What pair_up makes of two models."""
    with (
        open_checkpoint(str(write_model(folder / "base", base, **(base_config or {})))) as left,
        open_checkpoint(str(write_model(folder / "post", post, **(post_config or {})))) as right,
    ):
        return pair_up(left, right)


def problems(folder: Path, base: State, post: State, **configs) -> tuple[tuple[str, ...], str]:
    with pytest.raises(Mismatch) as error:
        pair(folder, base, post, **configs)
    return error.value.problems, str(error.value)


def test_tensors_belong_together_by_name_whatever_their_order(tmp_path):
    shuffled = {name: STATE[name] for name in reversed(STATE)}
    found = pair(tmp_path, STATE, shuffled)
    assert {each.name for each in found} == set(STATE)
    for each in found:
        assert each.name == each.base.entry.name == each.post.entry.name


def test_float_formats_may_differ(tmp_path):
    assert len(pair(tmp_path, cast(STATE, torch.float16), STATE)) == len(STATE)


def test_every_name_that_only_one_side_has_is_listed_and_ten_are_shown(tmp_path):
    base = {f"old.{i:02d}": torch.ones(1) for i in range(15)} | {"both": torch.ones(1)}
    post = {f"new.{i:02d}": torch.ones(1) for i in range(4)} | {"both": torch.ones(1)}
    found, text = problems(tmp_path, base, post)
    assert len(found) == 19
    assert "19 tensors do not fit" in text
    assert "old.09 is only in base" in text
    assert "old.10" not in text
    assert "and 9 more" in text


def test_every_shape_that_differs_is_listed(tmp_path):
    base = {"a": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(1), "d": torch.ones(2)}
    post = {"a": torch.ones(3, 2), "b": torch.ones(4, 1), "c": torch.tensor(1.0), "d": torch.ones(2)}
    found, text = problems(tmp_path, base, post)
    assert found == (
        "a has shape 2 × 3 in base, 3 × 2 in post",
        "b has shape 4 in base, 4 × 1 in post",
        "c has shape 1 in base, scalar in post",
    )
    assert "3 tensors do not fit" in text


def test_float_on_one_side_and_integer_on_the_other_do_not_fit(tmp_path):
    found, _ = problems(tmp_path, {"w": torch.ones(2)}, {"w": torch.tensor([1, 2])})
    assert found == ("w is F32 in base and I64 in post",)


def test_a_vocabulary_may_grow_if_both_configs_say_so(tmp_path):
    grown = near(STATE, 2, vocab=53)
    found = {each.name: each for each in pair(tmp_path, STATE, grown)}
    shapes = (found[EMBEDDING].base.entry.shape, found[EMBEDDING].post.entry.shape)
    assert shapes == ((50, 16), (53, 16))


@pytest.mark.parametrize(
    ("base_says", "post_says"), [(None, None), (None, 53), (50, None), (49, 53), (50, 54), (53, 50)]
)
def test_more_rows_do_not_fit_unless_the_configs_say_exactly_that(tmp_path, base_says, post_says):
    found, _ = problems(
        tmp_path, STATE, near(STATE, 2, vocab=53),
        base_config={"vocab_size": base_says}, post_config={"vocab_size": post_says},
    )  # fmt: skip
    assert found == (f"{EMBEDDING} has shape 50 × 16 in base, 53 × 16 in post",)


def test_a_vocabulary_that_shrank_does_not_fit(tmp_path):
    found, _ = problems(tmp_path, near(STATE, 2, vocab=53), STATE)
    assert len(found) == 1


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SIZES = st.none() | st.integers(0, 4)


@settings(max_examples=100)
@given(SHAPES, SIZES, SHAPES, SIZES)
def test_only_the_first_dimension_may_grow_and_only_as_the_vocabulary_does(small, before, large, after):
    grown = is_grown(small, before, large, after)
    if grown:
        assert before < after
        assert (before, *small[1:]) == small
        assert (after, *small[1:]) == large
    assert not is_grown(large, after, small, before) or not grown


def test_growth_is_recognised():
    assert is_grown((50, 16), 50, (53, 16), 53)
    assert is_grown((50,), 50, (53,), 53)


def test_shapes_are_written_as_people_write_them():
    assert [show(shape) for shape in ((32000, 4096), (7,), ())] == ["32000 × 4096", "7", "scalar"]


# -- tokenizers ---------------------------------------------------------------------------------


def bpe(*tokens: str, added: tuple[int, ...] = ()) -> bytes:
    vocab = {token: number for number, token in enumerate(tokens)}
    return json.dumps({"model": {"vocab": vocab}, "added_tokens": [{"id": n} for n in added]}).encode()


def unigram(*tokens: str) -> bytes:
    return json.dumps({"model": {"vocab": [[token, -1.0] for token in tokens]}}).encode()


def test_one_id_must_not_mean_two_tokens():
    for make in (bpe, unigram):
        with pytest.raises(Mismatch) as error:
            check_vocabulary(make("a", "b", "c"), make("a", "x", "y"), where="here")
        assert error.value.problems == (
            "id 1 is 'b' on one side and 'x' on the other",
            "id 2 is 'c' on one side and 'y' on the other",
        )
        assert "2 tokens do not fit" in str(error.value)


def test_tokens_may_be_added_at_the_end_and_special_ones_renamed():
    check_vocabulary(bpe("a", "b"), bpe("a", "b", "c"), where="here")
    check_vocabulary(bpe("a", "b", "c"), bpe("a", "b"), where="here")
    check_vocabulary(bpe("a", "<r0>", added=(1,)), bpe("a", "<tool>", added=(1,)), where="here")
    check_vocabulary(unigram("a", "b"), bpe("a", "b"), where="here")


def test_where_a_tokenizer_is_missing_there_is_nothing_to_compare():
    for left, right in ((None, None), (None, bpe("a")), (bpe("a"), None)):
        check_vocabulary(left, right, where="here")


@pytest.mark.parametrize(
    "odd",
    [
        b"", b"not json", b"[]", b"3", b"null", b"{}", b'{"model": 1}', b'{"model": {"vocab": 1}}',
        b'{"model": {"vocab": [1, 2]}}', b'{"model": {"vocab": [["a"]]}}',
        b'{"model": {"vocab": ["abc"]}}',
        b'{"model": {"vocab": {"a": [1]}}}', b'{"model": {"vocab": {"a": null}}}',
        b'{"model": {"vocab": {}}, "added_tokens": 3}', b'{"model": {"vocab": {}}, "added_tokens": [1]}',
        b'{"model": {"vocab": {}}, "added_tokens": [{}]}', b"[" * 100_000, b"\xff",
        b'{"model": {"vocab": {"a": 0}}, "added_tokens": null}',
    ],
    ids=lambda odd: repr(odd[:60]),
)  # fmt: skip
def test_a_tokenizer_of_unknown_form_is_not_compared(odd):
    check_vocabulary(odd, bpe("b"), where="here")
    check_vocabulary(bpe("b"), odd, where="here")
