"""`Arithmetic` in torch, for a CUDA device (or, in tests, the processor): the same bits as on the CPU.

Moving the bytes is the limit of these jobs, so the device seldom makes them faster; it is there for
machines whose cores are busy with something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.tensors.arithmetic import Corrections, Operand, Subtracted, Term
from pipeline.tensors.dtypes import BF16, F16, F32, F64, DType, compute_dtype

_FLOATS = {BF16: torch.bfloat16, F16: torch.float16, F32: torch.float32, F64: torch.float64}
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_NANS = {
    torch.bfloat16: 0x7FC0,
    torch.float16: 0x7E00,
    torch.float32: 0x7FC00000,
    torch.float64: 0x7FF8000000000000,
}


class TorchArithmetic:
    """Both formulas on one chunk, computed on `device`."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def subtract(self, post: Operand, base: Operand, stored: Operand) -> Subtracted:
        """See `Arithmetic.subtract`."""
        width = compute_dtype(post.dtype, base.dtype)
        ours = self._widen(post, width)
        theirs = self._padded(self._widen(base, width), len(ours))
        changed = int(torch.count_nonzero(as_bits(ours) != as_bits(theirs)))
        delta = canonical(ours - theirs)
        kept = round_once(delta, _FLOATS[stored.dtype])
        rest = as_bits(delta) - as_bits(canonical(kept.to(delta.dtype)))
        rest_at = torch.nonzero(rest).flatten()
        restored = round_once(theirs + delta, _FLOATS[post.dtype])
        lost_at = torch.nonzero(as_bits(restored) != as_bits(self._load(post))).flatten()
        self._store(kept, stored)
        places = lost_at.cpu().numpy()
        lost = Corrections(
            rest_at.cpu().numpy().astype(np.uint32),
            rest[rest_at].cpu().numpy(),
            places.astype(np.uint32),
            post.bits[places],
        )
        return Subtracted(changed, lost)

    def add(self, base: Operand, terms: Sequence[Term], result: Operand) -> int:
        """See `Arithmetic.add`."""
        width = compute_dtype(base.dtype, *(term.width for term in terms))
        count = len(result.data) // result.dtype.itemsize
        total = self._padded(self._widen(base, width), count)
        for term in terms:
            delta = self._widen(term.stored, term.width)
            if len(term.rest_at):
                at = torch.from_numpy(term.rest_at.astype(np.int64)).to(self._device)
                as_bits(delta)[at] += torch.from_numpy(term.rest.copy()).to(self._device)
            wider = delta.to(_FLOATS[width])
            total[: len(wider)] += wider.new_tensor(term.scale) * wider
        rounded = round_once(total, _FLOATS[result.dtype])
        self._store(rounded, result)
        return int(torch.count_nonzero(~torch.isfinite(rounded)))

    def _load(self, source: Operand) -> torch.Tensor:
        count = len(source.data) // source.dtype.itemsize
        if not count:
            return torch.empty(0, dtype=_FLOATS[source.dtype], device=self._device)
        host = torch.frombuffer(source.data, dtype=_FLOATS[source.dtype], count=count)
        return host.to(self._device, copy=True)

    def _widen(self, source: Operand, width: DType) -> torch.Tensor:
        return self._load(source).to(_FLOATS[width])

    def _padded(self, values: torch.Tensor, count: int) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, count - len(values)))

    def _store(self, values: torch.Tensor, target: Operand) -> None:
        target.bits[:] = as_bits(values).cpu().numpy().view(target.dtype.bits)


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`values` in `dtype`, rounded once, to nearest even; every NaN becomes the one quiet NaN.

    torch goes from float64 to 16 bits by way of float32, which rounds twice: here the first step rounds
    to odd, so that only the second counts (see `kernels.round_to_odd`).
    """
    if values.dtype == torch.float64 and dtype in (torch.bfloat16, torch.float16):
        near = values.to(torch.float32)
        bits = as_bits(near).clone()
        bits -= (near.abs().to(torch.float64) > values.abs()).to(bits.dtype)
        inexact = (near.to(torch.float64) != values) & ~values.isnan()
        values = torch.where(inexact, (bits | 1).view(torch.float32), near)
    return canonical(values.to(dtype))


def canonical(values: torch.Tensor) -> torch.Tensor:
    """`values` with one bit pattern for every NaN: torch's own conversions give several."""
    bits = as_bits(values)
    return torch.where(values.isnan(), bits.new_tensor(_NANS[values.dtype]), bits).view(values.dtype)


def as_bits(values: torch.Tensor) -> torch.Tensor:
    """The same memory as signed integers."""
    return values.view(_INTEGERS[values.element_size()])
