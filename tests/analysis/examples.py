"""An analysis of any shape, for tests of what is made from one."""

from __future__ import annotations

from pipeline.analysis.parts import ANY, Split, part_of
from pipeline.analysis.report import (
    Agreement,
    Analysis,
    DeltaFigures,
    Histogram,
    PairFigures,
    Spectrum,
    TensorFigures,
)
from pipeline.analysis.tables import pairs_of

MODULES = (("attention", "q_proj"), ("mlp", "up_proj"), ("norm", "input_layernorm"))


def tensor(name: str, layer: int | None, group: str, module: str, relative: float) -> TensorFigures:
    spectrum = None if group == "norm" else Spectrum(12.5 + relative, {"1": 0.25}, True, (64, 32))
    return TensorFigures(
        name, (64, 128), "BF16", layer, group, module, 8192, 0.9,
        relative * 10, 10.0, relative, 0.1, spectrum,
    )  # fmt: skip


def delta_of(location: str, layers: int, mark: str = "") -> DeltaFigures:
    tensors = [tensor(f"embed{mark}", None, "embedding", f"embed{mark}", 0.1)]
    tensors += [
        tensor(
            f"layers.{n}.{module}{mark}", n, group, f"{module}{mark}", 0.01 + 0.001 * ((n * 7 + i) % 9)
        )
        for n in range(layers)
        for i, (group, module) in enumerate(MODULES)
    ]
    split = Split.of(tensors, lambda each: (each.layer, each.group, each.module))
    parts = {
        name: [part_of(*each) for each in getattr(split, name)]
        for name in ("groups", "layers", "layer_groups", "cells")
    }
    return DeltaFigures(
        location, "f" * 64, "base", "post", None, None, 8192 * len(tensors), ["BF16"],
        total=part_of(ANY, tensors), tensors=tensors,
        histograms=[Histogram(None, -9, (1, 5, 3), 2)], **parts,
    )  # fmt: skip


def analysis_of(*, layers: int = 2, deltas: int = 1, mark: str = "") -> Analysis:
    """Of so many deltas of models with so many layers. mark: in every name."""
    made = [delta_of(f"d{number}{mark}.safetensors", layers, mark) for number in range(deltas)]
    rows = [Agreement(n, None, None, 10, 0.1 * (n % 5), 0.9, 0.6) for n in range(layers)]
    groups = [Agreement(n, "mlp", None, 10, 0.2, 0.9, None) for n in range(layers)]
    total = Agreement(None, None, None, 10, 0.25, 0.9, 0.6)
    pairs = [PairFigures(i, j, total, [], rows, groups, []) for i, j in pairs_of(deltas)]
    return Analysis(made, pairs)
