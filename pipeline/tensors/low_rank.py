"""A matrix as a product of two thin ones: the truncated singular value decomposition.

Eckart and Young: no product of rank r is nearer than U·S·V of the r largest singular values. Small
matrices are decomposed exactly; of large ones the foremost part is found by Halko, Martinsson and
Tropp's randomised range finder (arXiv 0909.4061, torch's `svd_lowrank`), seeded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

EXACT_SIDE = 768  # up to here the whole decomposition takes no longer than the randomised one
_OVERSAMPLING, _POWER_ITERATIONS = 16, 4
_FIRST_GUESS = 64  # singular values that are looked at first where an energy is asked for
_ROWS = 256


def workspace_bytes(shape: tuple[int, int], rank: int | None) -> int:
    """Memory in bytes that `factorise` takes for a matrix of that shape, the matrix included.

    What comes after counts, too: the factors, what they are once rounded, one of them in float64, and
    `residual`. rank: None where an energy is asked for, which may need them all.
    """
    rows, columns = shape
    side = min(shape)
    thin = side if rank is None or is_exact(shape, rank) else min(side, rank + _OVERSAMPLING)
    decomposing = 4 * (4 * thin * (rows + columns) + 4 * thin * thin)
    size = side if rank is None else rank
    after = 8 * size * (rows + columns) + 20 * size * max(shape) + 24 * min(rows, _ROWS) * columns
    return 4 * rows * columns + max(decomposing, after)


def is_exact(shape: tuple[int, int], rank: int) -> bool:
    """Whether a matrix of that shape is decomposed whole to find so many singular values."""
    side = min(shape)
    return side <= EXACT_SIDE or 3 * (rank + _OVERSAMPLING) > side


def squared_norm(matrix: Matrix) -> float:
    """The sum of squares, in float64."""
    rows = range(0, len(matrix), _ROWS)
    parts = (matrix[at : at + _ROWS].astype(np.float64) for at in rows)
    return float(sum(np.einsum("ij,ij->", part, part) for part in parts))


def factorise(
    matrix: Matrix, *, rank: int | None, energy: float | None, seed: int
) -> tuple[Matrix, Matrix]:
    """B and A, so that B · A is near the matrix: of this rank, or of the least that keeps this energy.

    energy: the share of the squared norm that B · A is to keep. Where the matrix has no such rank, the
    result has the highest that it can have. Raises OverflowError for values that are too large.
    """
    side = min(matrix.shape)
    wanted = energy * squared_norm(matrix) if energy is not None else 0.0
    look = min(rank or _FIRST_GUESS, side)
    while True:
        left, values, right = _decompose(matrix, look, seed)
        kept = np.cumsum(values.astype(np.float64) ** 2)
        if energy is None:
            size = min(rank or side, side)
            break
        size = int(np.searchsorted(kept, wanted)) + 1
        if size <= len(values) or len(values) >= side:
            size = min(size, len(values))
            break
        look = min(2 * look, side)
    root = np.sqrt(values[:size])
    thin, flat = left[:, :size] * root, right[:size] * root[:, None]
    return np.ascontiguousarray(thin), np.ascontiguousarray(flat)


def residual(matrix: Matrix, left: Matrix, right: Matrix) -> float:
    """The squared norm of matrix − left · right, as they are, in float64."""
    total, wide = 0.0, right.astype(np.float64)
    for at in range(0, len(matrix), _ROWS):
        lost = matrix[at : at + _ROWS].astype(np.float64)
        lost -= left[at : at + _ROWS].astype(np.float64) @ wide
        total += float(np.einsum("ij,ij->", lost, lost))
    return total


def _decompose(matrix: Matrix, rank: int, seed: int) -> tuple[Matrix, Matrix, Matrix]:
    """U, the singular values and V transposed, of at least the `rank` largest of them."""
    import torch

    whole = torch.from_numpy(matrix)
    try:
        if is_exact((len(matrix), matrix.shape[1]), rank):
            left, values, right = torch.linalg.svd(whole, full_matrices=False)
            return left.numpy(), values.numpy(), right.numpy()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = torch.svd_lowrank(whole, q=rank + _OVERSAMPLING, niter=_POWER_ITERATIONS)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise OverflowError(str(error)) from error
    left, values, right = found
    return left[:, :rank].numpy(), values[:rank].numpy(), right[:, :rank].T.numpy()
