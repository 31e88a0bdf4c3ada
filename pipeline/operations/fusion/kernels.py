"""How a fusion is walked: surveyed first, then with kernels that know what was found."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.operations.fit import SumPlan
from pipeline.operations.fusion.survey import Survey
from pipeline.operations.kernels.add import AddKernel, Found
from pipeline.operations.kernels.deltas import scratch_bytes
from pipeline.operations.kernels.fuse import FuseKernel
from pipeline.operations.setup import Setup
from pipeline.operations.sum import Sum


def fusing_kernels(
    what: Sum, layout: SumPlan, found: Found, setup: Setup
) -> tuple[Callable[[], AddKernel], int]:
    """What makes a kernel for one worker, and the memory that it takes beside a sum's, in bytes.

    What the method must know of whole tensors is found out here; for that they may be read.
    """
    recipes = Survey(what.fused, layout, what.addends, what.scales, what.readers, setup).recipes()
    arithmetic = setup.resources.arithmetic

    def make() -> AddKernel:
        decoders = [addend.decoder(arithmetic) for addend in what.addends]
        return FuseKernel(
            layout.tensors,
            what.addends,
            what.scales,
            found,
            arithmetic(),
            decoders,
            what.same_base,
            what.fused,
            recipes,
        )

    return make, scratch_bytes(what.fused.fusion, len(what.addends))
