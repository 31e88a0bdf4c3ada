"""Plots: the same figures give the same bytes, names are text and nothing else, labels keep apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from analysis.examples import analysis_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis import plots
from pipeline.analysis.drawing import settings, shown
from pipeline.analysis.plots import draw_analysis
from pipeline.analysis.score_plots import draw_scores, hypothetical
from pipeline.analysis.sweep_plots import draw_sweep
from pipeline.quality.report import Evaluation, Measurement, Role, Scores
from pipeline.quality.sweep import Point, Sweep

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "$\\frac{a_b$</text><script>alert(1)</script>\x1b[31m\ud800"


def texts_of(svg: bytes) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_each_delta_and_their_pairs_have_plots():
    found = draw_analysis(analysis_of(layers=1, deltas=2), ["svg"])
    own = [f"{number}-{name}" for number in (1, 2) for name in ("norms", "modules", "ranks", "sizes")]
    names = [*own, "cosines", "agreement"]
    assert set(found) == {f"{name}.svg" for name in names}


@pytest.fixture(scope="module")
def drawn() -> Mapping[str, bytes]:
    return draw_analysis(analysis_of(), ["svg", "png"])


def test_one_delta_has_plots_of_its_own_alone_in_both_formats(drawn):
    names = ["norms", "modules", "ranks", "sizes"]
    assert set(drawn) == {f"{name}.{form}" for name in names for form in ("svg", "png")}
    assert all(data.startswith(b"\x89PNG") for name, data in drawn.items() if name.endswith("png"))


def test_axes_are_named(drawn):
    assert {"layer", "|δ| / |base|, L2 norms"} <= set(texts_of(drawn["modules.svg"]))


def test_the_same_figures_give_the_same_bytes(drawn):
    assert draw_analysis(analysis_of(), ["svg"]) == {
        name: data for name, data in drawn.items() if name.endswith("svg")
    }


def test_a_hostile_name_is_shown_as_text():
    for name, svg in draw_analysis(analysis_of(layers=1, mark=HOSTILE), ["svg"]).items():
        root = ElementTree.fromstring(svg)
        assert not list(root.iter(f"{SVG}script")), name
        assert b"\x1b" not in svg
        assert name != "modules.svg" or shown(f"q_proj{HOSTILE}") in texts_of(svg)


def test_a_name_is_cut_in_its_middle_and_kept_on_its_line():
    assert shown("a" * 30 + "\n" + "z" * 30, 20) == "a" * 6 + "…" + "z" * 13
    assert shown("a\nb") == "a\\nb"


def overlapping(figure: Figure, axes: Axes) -> list[tuple[str, str]]:
    """Neighbours among the tick labels whose boxes touch."""
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        labels = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        for left, right in pairwise(range(len(boxes))):
            if boxes[left].overlaps(boxes[right]):
                found.append((labels[left].get_text(), labels[right].get_text()))
    return found


@pytest.mark.parametrize("layers", [16, 126])
def test_labels_do_not_overlap(layers):
    analysis = analysis_of(layers=layers, deltas=2, mark="_of_a_module_with_a_long_name")
    with settings():
        for name, draw in plots._plots(analysis):
            if name.startswith("2-"):
                continue
            figure = draw()
            figure.canvas.draw()
            for axes in figure.axes:
                assert not overlapping(figure, axes), name


def test_what_is_not_known_is_not_drawn():
    analysis = analysis_of()
    (delta,) = analysis.deltas
    bare = replace(delta, layers=(), layer_groups=(), cells=(), tensors=(), histograms=())
    assert draw_analysis(replace(analysis, deltas=[bare]), ["svg"]) == {}


def evaluation(scale: float, **values: float) -> Evaluation:
    sides: dict[Role, float] = {"model": 0.3 + 0.4 * scale, "base": 0.3, "donor_base": 0.2, "donor": 0.6}
    scores = {
        role: Scores(role, role, {f"task:{n}": Measurement(v + x, 0.02, 99) for n, x in values.items()})
        for role, v in sides.items()
    }
    return Evaluation(scores)


def test_a_hypothetical_score_is_the_formula_on_scores():
    found = hypothetical(evaluation(1.0, sums=0.0, words=0.1))
    assert found == {"task:sums": pytest.approx((0.7, 0.7)), "task:words": pytest.approx((0.8, 0.8))}


def test_scores_are_drawn_over_the_scale_and_against_hypothetical_ones():
    found = draw_scores([(s, evaluation(s, **{"$a_b$": 0.0, "c": 0.1})) for s in (0.5, 1.0)], ["svg"])
    assert set(found) == {"scales.svg", "transfer-1.svg", "transfer-2.svg"}
    assert "$a_b$" in texts_of(found["scales.svg"])
    assert any("standard error" in text for text in texts_of(found["transfer-1.svg"]))


def test_one_scale_without_donors_has_nothing_to_draw():
    alone = Evaluation({"model": Scores("m", "m", {"task:a": Measurement(0.5)})})
    assert draw_scores([(1.0, alone)], ["svg"]) == {}


def test_a_sweep_of_many_tasks_leaves_out_tasks_and_not_their_mean():
    names = [*(f"task:t{number}" for number in range(40)), "task.mean", "task.min"]
    points = [
        Point(scale, figures={name: Measurement(scale, 0.1, 9) for name in names})
        for scale in (0.0, 1.0)
    ]
    (svg,) = draw_sweep(Sweep("out", "base", [], points), ["svg"]).values()
    texts = texts_of(svg)
    assert {"task.mean", "task.min", "t0"} <= set(texts) and "t39" not in texts
    assert any("lines left out" in text for text in texts)
