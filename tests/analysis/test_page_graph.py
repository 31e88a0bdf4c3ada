"""The lineage: what is the same is one node, what was made of something stands behind it."""

from __future__ import annotations

from dataclasses import replace

from analysis.pages import delta, everything, release, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis.page.facts import Delta, Evidence, Model, Part
from pipeline.analysis.page.layout import ACROSS, DOWN, draw
from pipeline.analysis.page.lineage import MAX_NODES, Lineage, Node, trace


def edges(found: Lineage) -> set[tuple[str, str]]:
    """The edges, by what the nodes are called."""
    return {
        (str(found.nodes[a].model.location), f"{found.nodes[b].kind} {found.nodes[b].model.location}")
        for a, b in found.edges
    }


def test_bases_lead_to_deltas_deltas_to_releases_and_releases_to_gates() -> None:
    assert edges(trace(everything())) == {
        ("org/base-v1", "delta deltas/post-v1.safetensors"),
        ("org/post-v1", "delta deltas/post-v1.safetensors"),
        ("org/base-v2", "release releases/post-v2"),
        ("deltas/post-v1.safetensors", "release releases/post-v2"),
        ("releases/post-v2", "gate releases/post-v2"),
    }


def test_what_was_published_stands_behind_its_gate() -> None:
    final = Model("final/post-v2", "e" * 64)
    found = trace(Evidence(releases=[release()], verdicts=[verdict()], published=[final]))
    assert ("releases/post-v2", "release final/post-v2") in edges(found)


def test_a_location_stands_for_the_one_fingerprint_that_was_seen_with_it() -> None:
    vague = Delta(Model("x"), Model("org/base-v1"), Model("org/other"))
    assert len(trace(Evidence(deltas=[delta(), vague])).nodes) == 5  # base-v1 is one
    changed = replace(delta(), base=Model("org/base-v1", "9" * 64), model=Model("y", "8" * 64))
    assert len(trace(Evidence(deltas=[delta(), changed])).nodes) == 5  # post-v1 is one, base-v1 is not


def test_a_circle_is_not_drawn() -> None:
    first = Delta(Model("a", "1" * 64), parts=[Part(1.0, Model("b", "2" * 64))])
    second = Delta(Model("b", "2" * 64), parts=[Part(1.0, Model("a", "1" * 64))])
    assert len(trace(Evidence(deltas=[first, second])).edges) == 1


def test_a_lineage_that_nobody_could_look_at_is_cut() -> None:
    many = [Delta(Model(f"d{n}", f"{n:064}")) for n in range(MAX_NODES + 20)]
    found = trace(Evidence(deltas=many))
    assert (len(found.nodes), found.left_out) == (MAX_NODES, 20)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_in_any_graph_nodes_lie_apart_and_behind_what_they_were_made_of(
    pairs: set[tuple[int, int]],
) -> None:
    lineage = Lineage()
    for number in range(10):
        lineage.add(Node(str(number), "model", Model(str(number))))
    for source, target in sorted(pairs):
        lineage.link(str(source), str(target))
    for shape in (ACROSS, DOWN):
        drawing = draw(lineage, shape)
        place = {each.node.key: (each.x, each.y) for each in drawing.nodes}
        along = 1 if shape.is_down else 0
        assert all(place[source][along] < place[target][along] for source, target in lineage.edges)
        wide, high = drawing.shape.width, drawing.shape.height
        spots = [*place.values()]
        for index, (x, y) in enumerate(spots):
            assert 0 <= x <= drawing.width - wide and 0 <= y <= drawing.height - high
            assert all(abs(x - a) >= wide or abs(y - b) >= high for a, b in spots[:index])
