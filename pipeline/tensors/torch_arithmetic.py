"""`Arithmetic` in torch, for a CUDA device (or, in tests, the processor): the same bits as on the CPU.

Moving the bytes is the limit of these jobs, so the device seldom makes them faster; it is there for
machines whose cores are busy with something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.tensors.arithmetic import Corrections, Operand, Term
from pipeline.tensors.dtypes import BF16, F16, F32, F64, DType, compute_dtype

_FLOATS = {BF16: torch.bfloat16, F16: torch.float16, F32: torch.float32, F64: torch.float64}
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class TorchArithmetic:
    """Both formulas on one chunk, computed on `device`."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def subtract(self, post: Operand, base: Operand, stored: Operand) -> tuple[int, Corrections]:
        """See `Arithmetic.subtract`."""
        width = compute_dtype(post.dtype, base.dtype)
        ours = self._widen(post, width)
        theirs = self._padded(self._widen(base, width), len(ours))
        changed = int(torch.count_nonzero(self._bits(ours) != self._bits(theirs)))
        delta = ours - theirs
        delta = torch.where(delta.isnan(), torch.full_like(delta, torch.nan), delta)
        kept = self._narrow(delta, stored.dtype)
        rest = self._bits(delta) - self._bits(kept.to(delta.dtype))
        rest_at = torch.nonzero(rest).flatten()
        restored = self._narrow(theirs + delta, post.dtype)
        lost_at = torch.nonzero(self._bits(restored) != self._bits(self._load(post))).flatten()
        self._store(kept, stored)
        lost = lost_at.cpu().numpy()
        return changed, Corrections(
            rest_at.cpu().numpy().astype(np.uint32),
            rest[rest_at].cpu().numpy(),
            lost.astype(np.uint32),
            post.bits[lost],
        )

    def add(self, base: Operand, terms: Sequence[Term], result: Operand) -> int:
        """See `Arithmetic.add`."""
        width = compute_dtype(base.dtype, *(term.width for term in terms))
        count = len(result.data) // result.dtype.itemsize
        total = self._padded(self._widen(base, width), count)
        for term in terms:
            delta = self._widen(term.stored, term.width)
            if len(term.rest_at):
                at = torch.from_numpy(term.rest_at.astype(np.int64)).to(self._device)
                self._bits(delta)[at] += torch.from_numpy(term.rest.copy()).to(self._device)
            wider = delta.to(_FLOATS[width])
            total[: len(wider)] += wider.new_tensor(term.scale) * wider
        rounded = self._narrow(total, result.dtype)
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

    def _narrow(self, values: torch.Tensor, dtype: DType) -> torch.Tensor:
        """Round once, to nearest even. torch goes from float64 to 16 bits by way of float32: round to
        odd first, so that the second rounding is the only one that counts.
        """
        if values.dtype == torch.float64 and dtype.itemsize == 2:
            near = values.to(torch.float32)
            bits = self._bits(near).clone()
            bits -= (near.abs().to(torch.float64) > values.abs()).to(bits.dtype)
            inexact = (near.to(torch.float64) != values) & ~values.isnan()
            values = torch.where(inexact, (bits | 1).view(torch.float32), near)
        return values.to(_FLOATS[dtype])

    def _store(self, values: torch.Tensor, target: Operand) -> None:
        target.bits[:] = self._bits(values).cpu().numpy().view(target.dtype.bits)

    @staticmethod
    def _bits(values: torch.Tensor) -> torch.Tensor:
        return values.view(_INTEGERS[values.element_size()])
