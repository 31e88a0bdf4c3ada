"""The fingerprint of a checkpoint that nothing is known of: every byte of it is read once."""

from __future__ import annotations

from typing import Unpack

import numpy as np

from pipeline.checkpoints.adapters.post import open_model
from pipeline.engine.plan import Job, Plan
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.operations.kernels.digest import DigestKernel
from pipeline.operations.setup import Reading, Setup
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, fold_checkpoint, fold_tensor


def fingerprint(model: str, *, base: str | None = None, **options: Unpack[Reading]) -> Digest:
    """The fingerprint of the checkpoint at `model`. options: see `Reading`.

    base: what `model` is merged into, should it be an adapter; then the merged weights are meant.
    Raises the errors of `pipeline.errors`.
    """
    setup = Setup.of(options)
    with open_model(model, base=base, settings=setup.settings) as checkpoint:
        entries = [source.entry for source in checkpoint.tensors.values()]
        plan = Plan([Job(None, 0, 0, entry.count, (checkpoint.input(entry.name),)) for entry in entries])
        rows = np.zeros((plan.rows, DIGEST_BYTES), np.uint8)
        work = Work(
            title=f"read {checkpoint.location}",
            plan=plan,
            readers=checkpoint.readers,
            make_kernel=lambda: DigestKernel(rows),
            findings=[rows],
        )
        walk(work, setup.resources.limits, setup.progress)
        return fold_checkpoint(
            {
                entry.name: fold_tensor(entry.dtype, entry.shape, rows[plan.rows_of(job)])
                for job, entry in enumerate(entries)
            }
        )
