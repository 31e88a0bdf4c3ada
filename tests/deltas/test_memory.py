"""The memory that is asked for is a bound: on everything, however much rounding loses."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import cast, near, write_model

from pipeline import apply, compute
from pipeline.units import MIB, parse_bytes

SLACK = 2 * MIB  # manifests, tables and headers: what grows with the number of tensors


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Several chunks a tensor."""
    seeded = torch.Generator().manual_seed(1)
    return {f"w{i}": torch.randn(1 << 21, generator=seeded) for i in range(3)}


def peak(function: Callable[[], object]) -> int:
    """Bytes that Python and numpy hold at most while `function` runs, on top of what they hold now."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "stored", "memory", "workers"),
    [
        (torch.bfloat16, "auto", "64MiB", 2),
        (torch.bfloat16, "auto", "48MiB", 1),
        (torch.float32, "auto", "64MiB", 2),
        (torch.float32, "bfloat16", "64MiB", 2),  # loses something of nearly every element
        (torch.float64, "bfloat16", "128MiB", 4),
    ],
    ids=str,
)
def test_compute_and_apply_stay_within_their_memory(
    tmp_path: Path, state, dtype, stored, memory, workers
):
    base = str(write_model(tmp_path / "base", cast(state, dtype)))
    post = str(write_model(tmp_path / "post", cast(near(state, 2), dtype)))
    delta, limits = str(tmp_path / "d.safetensors"), {"memory": memory, "workers": workers}
    small = write_model(tmp_path / "small", {"w": torch.ones(2)})
    compute(str(small), str(small), str(tmp_path / "warm.safetensors"))  # what is imported stays

    computing = peak(lambda: compute(base, post, delta, dtype=stored, **limits))
    applying = peak(lambda: apply(base, [delta], str(tmp_path / "out"), **limits))
    bound = parse_bytes(memory) + SLACK
    assert (computing <= bound, applying <= bound) == (True, True), (computing / MIB, applying / MIB)
