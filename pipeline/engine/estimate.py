"""What a run will move and take, read from its plan before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.engine.plan import Plan
from pipeline.engine.schedule import REMOTE_BLOCK_BYTES, SMALLEST_BLOCK_BYTES, Limits, schedule
from pipeline.errors import UsageError
from pipeline.storage.base import Reader


@dataclass(frozen=True, slots=True)
class Estimate:
    """download_bytes, upload_bytes: of what is read and written, what goes over a network.

    memory_bytes: for buffers, kernels' scratch space apart. A packed delta is smaller than its values,
    and by how much is seen only when it is written: what is uploaded of it is at most this.
    """

    download_bytes: int
    upload_bytes: int
    memory_bytes: int

    @classmethod
    def of(
        cls,
        plan: Plan,
        readers: Sequence[Reader],
        limits: Limits,
        *,
        written_bytes: int,
        to_remote: bool,
    ) -> Self:
        """The estimate of a walk of `plan` that writes so many bytes."""
        remote = [number for number, reader in enumerate(readers) if reader.is_remote]
        download = sum(
            source.nbytes
            for job in plan.jobs
            for source in job.inputs
            if source and source.reader in remote
        )
        far = bool(remote) or to_remote
        size = REMOTE_BLOCK_BYTES if far else SMALLEST_BLOCK_BYTES
        try:
            found = schedule(plan, limits, remote=far, block_bytes=size, scratch_bytes=0).memory_bytes
        except UsageError:  # the walk says better what it lacks
            found = limits.memory_bytes
        return cls(download, written_bytes if to_remote else 0, found)
