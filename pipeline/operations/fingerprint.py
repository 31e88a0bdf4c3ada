"""The fingerprint of a checkpoint: every byte of it is read once, unless its digests were kept."""

from __future__ import annotations

from collections.abc import Container
from typing import Unpack

import numpy as np

from pipeline.checkpoints.adapters.post import open_model
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.kept_digests import KeptDigests, Rows
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
        known = KeptDigests(checkpoint, setup.settings.digest_cache)
        found = known.rows | _read(checkpoint, known.rows.keys(), setup)
        known.keep(lambda: found)
        entries = {name: source.entry for name, source in checkpoint.tensors.items()}
        return fold_checkpoint(
            {name: fold_tensor(each.dtype, each.shape, found[name]) for name, each in entries.items()}
        )


def _read(model: Checkpoint, known: Container[str], setup: Setup) -> dict[str, Rows]:
    """The digests of the chunks of all tensors but those that are known."""
    names = [name for name in model.tensors if name not in known]
    plan = Plan([Job(None, 0, 0, source.count, (source,)) for source in map(model.input, names)])
    rows = np.zeros((plan.rows, DIGEST_BYTES), np.uint8)
    work = Work(
        title=f"read {model.location}",
        plan=plan,
        readers=model.readers,
        make_kernel=lambda: DigestKernel(rows),
        findings=[rows],
    )
    if names:
        walk(work, setup.resources.limits, setup.progress)
    return {name: rows[plan.rows_of(job)] for job, name in enumerate(names)}
