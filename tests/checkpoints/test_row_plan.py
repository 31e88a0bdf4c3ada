"""Where rows come from: by token string, by position only where no string tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.checkpoints.row_order import ABSENT
from pipeline.checkpoints.row_plan import RowPlan, Side, plan_base, plan_result
from pipeline.checkpoints.vocabulary import Vocabulary

GONE = ABSENT


def side(ordinary: str, added: Mapping[str, int] | None = None, rows: int | None = None) -> Side:
    """A letter for each ordinary token, in the order of ids."""
    tokens = dict(enumerate(ordinary)) | {number: token for token, number in (added or {}).items()}
    ids = {token: number for number, token in tokens.items()}
    size = max(tokens) + 1 if rows is None else rows
    return Side(Vocabulary(tokens, ids, frozenset((added or {}).values())), size)


def result(new: Side, post: Side, whole: Collection[int] = ()) -> RowPlan:
    return plan_result(new, post, lambda row: row in whole)


def test_bases_rows_stand_where_post_has_their_tokens():
    found = plan_base(side("abc"), side("cab"))
    assert (found.sources, found.lacking, found.moved) == ([2, 0, 1], [], 3)


def test_a_token_that_only_post_has_lacks_a_row_and_one_that_only_base_has_is_dropped():
    found = plan_base(side("abx"), side("ba", {"<new>": 2}))
    assert (found.sources, found.lacking, found.dropped) == ([1, 0, GONE], [2], ["x"])


def test_a_new_token_in_the_place_of_padding_lacks_a_row():
    found = plan_base(side("ab", rows=4), side("ab", {"<new>": 2}, rows=4))
    assert (found.sources, found.lacking) == ([0, 1, GONE, 3], [2])


def test_a_reserved_token_that_got_a_name_keeps_its_row_where_nothing_moved():
    base, post = side("ab", {"<r0>": 2, "<r1>": 3}), side("ab", {"<tool>": 2, "<r1>": 3})
    found = plan_base(base, post)
    assert (found.sources, found.renamed, found.dropped) == ([0, 1, 2, 3], ["<tool>"], [])
    moved = plan_base(base, side("ba", {"<tool>": 2, "<r1>": 3}))
    assert (moved.sources, moved.renamed, moved.dropped) == ([1, 0, GONE, 3], [], ["<r0>"])


def test_an_ordinary_token_is_never_taken_for_another():
    found = plan_base(side("ab"), side("ax"))
    assert (found.sources, found.lacking, found.dropped) == ([0, GONE], [1], ["b"])


def test_ids_behind_the_rows_have_none():
    found = plan_base(side("abc", rows=2), side("cab"))
    assert (found.sources, found.lacking) == ([GONE, 0, 1], [0])


def test_rows_that_post_has_whole_are_not_the_new_bases():
    found = result(side("ab", {"<t>": 2}), side("ab", {"<t>": 2}), whole={2})
    assert (found.sources, found.dropped, found.lacking) == ([0, 1, GONE], ["<t>"], [])


def test_a_token_that_the_new_base_lacks_is_told():
    assert result(side("ab"), side("abc")).lacking == [2]


def test_the_new_bases_own_token_stays_where_post_has_no_row():
    found = result(side("ab", {"<own>": 4}, rows=6), side("ab", {"<t>": 2}), whole={2})
    assert found.sources == [0, 1, GONE, 3, 4, 5]
    assert (found.own, found.kept, found.displaced) == ([("<own>", 4)], [], 1)


def test_the_new_bases_own_token_stays_where_post_has_padding():
    found = result(side("ab", {"<own>": 3}, rows=4), side("ab", {"<t>": 2}, rows=4), whole={2, 3})
    assert found.sources == [0, 1, GONE, 3]
    assert (found.own, found.kept) == ([("<own>", 3)], [3])


def test_the_new_bases_own_token_goes_behind_all_where_post_has_another():
    new, post = side("ab", {"<own>": 2}, rows=6), side("ab", {"<t>": 2})
    found = result(new, post, whole={2})
    assert (found.sources, found.own) == ([0, 1, GONE, 3, 4, 5, 2], [("<own>", 6)])


def test_a_token_that_stands_further_up_leaves_no_row_at_the_end():
    found = result(side("bac"), side("ab", rows=2))
    assert (found.sources, found.own) == ([1, 0, 2], [("c", 2)])
    assert result(side("xab"), side("ab", rows=2)).sources == [1, 2, 0]


def test_padding_of_both_is_paired_by_position():
    assert result(side("ab", rows=4), side("ba", rows=4)).sources == [1, 0, 2, 3]
