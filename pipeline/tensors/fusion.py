"""What the methods of fusion do with one chunk of one delta, and how they put several together.

Everything is in float32, on flat and contiguous arrays that are changed in place; sums are in float64,
in an order that does not depend on the processor. The methods, with their papers, are in docs/fusion.md;
the loops are in `fusion_source`, their machine code comes from `native`. Each releases the GIL.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.fingerprint import digest_bytes
from pipeline.tensors.native import KERNELS, Functions, Source, address_of

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]

HIGH_BINS, LOW_BITS = 1 << 16, 15  # of a magnitude's 31 bits: the upper 16, and what is below them
LOW_BINS = 1 << LOW_BITS
BEYOND = 0xFFFFFFFF  # larger than any magnitude's bits
CERTAIN = 1 << 32  # the limit of a chance that is one

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_U32, _U64, _DOUBLE = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_double
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "count_high": (_COUNT, (_POINTER, _COUNT, _POINTER, _POINTER, _COUNT)),
    "count_low": (None, (_POINTER, _COUNT, _U32, _POINTER)),
    "keep_band": (None, (_POINTER, _COUNT, _U32, _U32, _POINTER)),
    "keep_between": (None, (_POINTER, _COUNT, _U32, _U32)),
    "keep_random": (None, (_POINTER, _COUNT, _U64, _COUNT, _U64)),
    "keep_ranked": (None, (_POINTER, _COUNT, _U64, _COUNT, _POINTER)),
    "sum_sizes": (_DOUBLE, (_POINTER, _COUNT, _POINTER)),
    "sum_products": (_DOUBLE, (_POINTER, _POINTER, _COUNT, _POINTER)),
    "elect": (None, (_POINTER, _POINTER, _COUNT, _COUNT, _COUNT, _COUNT, _POINTER, _POINTER)),
}
_LANES, _SPAN = 512, 4096  # of `bf16_source` and `kernel_source`
_functions = Functions(
    _SIGNATURES, Source("pipeline.tensors.fusion_source", (KERNELS.module, *KERNELS.parts))
)


@dataclass(frozen=True, slots=True)
class Band:
    """Which elements of a tensor stay: by magnitude, as float32's bits, and among equals by their order.

    What is between `low` and `high` stays; of those that equal `low` numbers low_from..low_until,
    counted through the tensor; of those that equal `high` the first `high_until`.
    """

    low: int
    low_from: int
    low_until: int
    high: int
    high_until: int


NOTHING = Band(BEYOND, 0, 0, BEYOND, 0)  # stays


def count_high(values: Floats, bins: NDArray[np.uint32], others: NDArray[np.uint32]) -> int:
    """Count the values in `bins` by the upper 16 bits of their magnitude.

    Fills `others` with the magnitudes that have lower bits, too, and returns how many those are. Its
    last place is scratch: if they are not fewer than it is long, it has not all of them.
    """
    found = _functions["count_high"](
        address_of(values), len(values), address_of(bins), address_of(others), len(others) - 1
    )
    return int(found)


def count_low(values: Floats, high: int, bins: NDArray[np.uint32]) -> None:
    """Count in `bins`, by the lower 15 bits, the values whose magnitude's upper 16 bits are `high`."""
    _functions["count_low"](address_of(values), len(values), high, address_of(bins))


def keep_band(values: Floats, band: Band, seen: Counts, then: Counts) -> None:
    """Leave out what is not in the band.

    seen, then: how many equals of its ends the tensor has before these values, and up to their end.
    """
    (low_seen, high_seen), (low_end, high_end) = seen.tolist(), then.tolist()
    low_stays = _all_or_none(low_seen, low_end, band.low_from, band.low_until)
    high_stays = _all_or_none(high_seen, high_end, 0, band.high_until)
    if low_stays is not None and high_stays is not None and band.low < band.high:
        least, most = band.low + (not low_stays), band.high - (not high_stays)
        keep_between(values, least, most)
        return
    ordinals = np.array([band.low_from, band.low_until, band.high_until, low_seen, high_seen], np.int64)
    _functions["keep_band"](address_of(values), len(values), band.low, band.high, address_of(ordinals))


def keep_between(values: Floats, least: int, most: int) -> None:
    """Leave out what is not of these magnitudes, as float32's bits, both ends included."""
    _functions["keep_between"](address_of(values), len(values), least, most)


def _all_or_none(first: int, stop: int, kept_from: int, kept_until: int) -> bool | None:
    """Whether all of first..stop are in the other range, or none; None if some are."""
    if first >= stop or (kept_from <= first and stop <= kept_until):
        return True
    return False if first >= kept_until or stop <= kept_from else None


def random_key(seed: int, number: int, name: str) -> int:
    """The start of the random numbers for delta `number`'s tensor `name`: 64 bits of a BLAKE3 digest."""
    return int.from_bytes(digest_bytes(f"{seed} {number} {name}".encode()).raw[:8], "little")


def keep_random(values: Floats, key: int, start: int, density: float) -> None:
    """Keep each with the chance `density`. start: the first one's number in its tensor."""
    _functions["keep_random"](address_of(values), len(values), key, start, round(density * CERTAIN))


def keep_ranked(values: Floats, key: int, start: int, limits: Counts) -> None:
    """Keep each with the chance limits / 2^32; see `rank_limits`."""
    _functions["keep_ranked"](address_of(values), len(values), key, start, address_of(limits))


def rank_limits(rows: Floats, width: int, density: float, epsilon: float) -> Counts:
    """For whole rows of `width`, each element's chance by its magnitude's rank in its row, times 2^32.

    The smallest has density - epsilon, the largest density + epsilon, the others lie evenly between;
    of equals the first ranks lower. The one element of a row has `density`.
    """
    if width == 1:
        return np.full(len(rows), round(density * CERTAIN), np.int64)
    keys = (rows.view(np.uint32) & 0x7FFFFFFF).astype(np.int64).reshape(-1, width)
    keys <<= 32  # sizes, and below them the places, both without a sign
    keys |= np.arange(width)
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    chances = (density - epsilon) + np.linspace(0, 1, width) * (2 * epsilon)
    limits = np.empty(keys.shape, np.int64)
    np.put_along_axis(limits, keys, np.rint(chances * CERTAIN).astype(np.int64)[None], axis=1)
    return limits.reshape(-1)


def sum_sizes(values: Floats) -> float:
    """The sum of |values|."""
    scratch = np.empty(_LANES)
    return float(_functions["sum_sizes"](address_of(values), len(values), address_of(scratch)))


def sum_products(left: Floats, right: Floats) -> float:
    """The sum of left * right, as long as both are; products are exact."""
    count = min(len(left), len(right))
    scratch = np.empty(_LANES)
    return float(
        _functions["sum_products"](address_of(left), address_of(right), count, address_of(scratch))
    )


def elect(deltas: Floats, weights: Floats, out: Floats, *, normalize: bool) -> None:
    """out = for each column of `deltas`, weighted already, the sum of those with the sign of all.

    That is the sign of their sum, plus where it is zero. normalize: whether the sum is divided by the
    weights of those that are in it, unless they come to zero.
    """
    terms, stride = deltas.shape
    scratch = np.empty(2 * _SPAN, np.float32)
    _functions["elect"](
        address_of(deltas),
        address_of(weights),
        terms,
        stride,
        len(out),
        normalize,
        address_of(scratch),
        address_of(out),
    )
