"""The order of steps: each after those it needs, otherwise as the config has them."""

import pytest

from pipeline.batch.graph import Graph
from pipeline.errors import UsageError


def test_steps_that_need_nothing_keep_their_order():
    assert Graph({"c": (), "a": (), "b": ()}).order() == ["c", "a", "b"]


def test_a_step_comes_after_all_that_it_needs():
    assert Graph({"last": ("b", "a"), "a": (), "b": ("a",)}).order() == ["a", "b", "last"]


def test_a_step_that_is_free_runs_before_a_later_one():
    graph = Graph({"x": ("z",), "y": (), "z": (), "w": ()})
    assert graph.order() == ["y", "z", "x", "w"]


def test_a_need_that_is_given_twice_counts_once():
    assert Graph({"b": ("a", "a"), "a": ()}).order() == ["a", "b"]


def test_a_long_chain_is_ordered():
    names = [f"s{number}" for number in range(5000)]
    needs = {name: (names[number + 1],) for number, name in enumerate(names[:-1])}
    assert Graph({**needs, names[-1]: ()}).order() == names[::-1]


def test_only_one_step_is_selected_without_its_needs():
    assert Graph({"a": (), "b": ("a",)}).select("b") == ["b"]


def test_an_unknown_step_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"no step is called 'x' \(the config has: a, b\)"):
        Graph({"a": (), "b": ("a",)}).select("x")


def test_a_graph_without_cycles_has_none():
    assert Graph({"a": ("b",), "b": (), "c": ("a", "b")}).cycles() == []


def test_a_cycle_is_named_from_its_first_step_on():
    needs = {"outside": ("c",), "a": ("b",), "b": ("c",), "c": ("a",), "free": ()}
    assert Graph(needs).cycles() == [["a", "b", "c"]]


def test_every_cycle_is_found():
    needs = {"a": ("b",), "b": ("a",), "c": ("d", "a"), "d": ("c",), "self": ("self",)}
    assert Graph(needs).cycles() == [["a", "b"], ["c", "d"], ["self"]]


def test_a_graph_with_a_cycle_has_no_order():
    with pytest.raises(UsageError, match="a → b → a"):
        Graph({"a": ("b",), "b": ("a",)}).order()
