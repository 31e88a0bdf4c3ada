"""Singular values from chunks: exact where nothing is folded, a fair sample where it is."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.report import Spectrum
from pipeline.analysis.sketch import ENERGY_OF, Sketch, matrix_of

CHUNK = 4096  # any size will do


def shares_of(matrix: np.ndarray) -> np.ndarray:
    energies = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    return energies / energies.sum()


def rank_of(matrix: np.ndarray) -> float:
    shares = shares_of(matrix)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def sketched(matrix: np.ndarray, size: int, *, order: int = 1) -> Spectrum:
    sketch = Sketch(*matrix.shape, float(np.abs(matrix).max()), size)
    flat = matrix.ravel()
    for start in range(0, flat.size, CHUNK)[::order]:
        sketch.add(start, flat[start : start + CHUNK])
    found = sketch.spectrum()
    assert found is not None
    return found


def of_rank(rows: int, columns: int, rank: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns))).astype(np.float32)


@pytest.mark.parametrize("shape", [(200, 90), (90, 200), (128, 128), (3, 4096), (2, 20000)])
def test_what_fits_is_exactly_what_numpy_finds(shape):
    matrix = np.random.default_rng(1).normal(size=shape).astype(np.float32) * 1e-4
    found = sketched(matrix, 30000)
    assert not found.sampled
    assert found.effective_rank == pytest.approx(rank_of(matrix), rel=1e-6)
    shares = shares_of(matrix)
    assert found.energy == {str(k): pytest.approx(shares[:k].sum(), rel=1e-6) for k in ENERGY_OF}


@pytest.mark.parametrize("shape", [(700, 90), (90, 700), (600, 500)])
@pytest.mark.parametrize("rank", [1, 5])
def test_a_low_rank_survives_the_sampling(shape, rank):
    matrix = of_rank(*shape, rank)
    found = sketched(matrix, 101)
    assert found.sampled
    assert found.effective_rank == pytest.approx(rank_of(matrix), rel=0.15)
    assert found.energy["16"] == pytest.approx(1.0, abs=1e-6)


def test_a_sample_of_what_is_flat_says_less_than_the_truth_and_never_more_than_its_size():
    matrix = np.random.default_rng(2).normal(size=(600, 500)).astype(np.float32)
    found = sketched(matrix, 101)
    assert 101 / 3 < found.effective_rank < 101 < rank_of(matrix)


@pytest.mark.parametrize("size", [64, 1000])
def test_the_order_of_chunks_does_not_change_a_bit(size):
    matrix = np.random.default_rng(3).normal(size=(300, 333)).astype(np.float32)
    assert sketched(matrix, size) == sketched(matrix, size, order=-1)


def test_what_is_all_zeros_has_no_spectrum():
    sketch = Sketch(4, 4, 1.0, 8)
    sketch.add(0, np.zeros(16, np.float32))
    assert sketch.spectrum() is None


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [((5, 7), (5, 7)), ((2, 5, 7), (10, 7)), ((7,), None), ((), None), ((1, 7), None), ((0, 7), None)],
)
def test_a_tensor_is_seen_as_rows_of_its_last_dimension(shape, matrix):
    assert matrix_of(shape) == matrix


def test_a_row_longer_than_a_chunk_is_left_alone():
    assert matrix_of((2, 1 << 20)) is None
