"""The walk over a model folder that apply wrote: every file against what its provenance says."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from pipeline.checkpoints.checkpoint import open_files
from pipeline.checkpoints.files import PICKLES, SAFETENSORS, read_file
from pipeline.checkpoints.header import LENGTH_BYTES, Entry, Header, read_header
from pipeline.deltas.signing import SUFFIX, Verifier
from pipeline.engine.plan import Input, Job, Plan
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.errors import CorruptFile, UsageError
from pipeline.operations.kernels.digest import DigestKernel
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.signatures import find_signature
from pipeline.operations.setup import Resources
from pipeline.progress import Progressing
from pipeline.settings import Settings
from pipeline.storage.base import Files, Reader
from pipeline.storage.locations import parse_model
from pipeline.tensors.fingerprint import (
    DIGEST_BYTES,
    digest_bytes,
    fold_checkpoint,
    fold_tensor,
)


def check_model(
    location: str,
    settings: Settings,
    resources: Resources,
    progress: Progressing,
    *,
    verifier: Verifier | None,
) -> dict[str, Any]:
    """Check the folder at `location`; returns what a report says of it. Raises UsageError."""
    folder = open_files(parse_model(location), settings)
    if folder.stat(PROVENANCE) is None:
        raise UsageError(
            f"has no {PROVENANCE}: there is nothing that it could be held against",
            where=folder.url,
            hint="verify is for deltas and for folders that `cli.py apply` wrote",
        )
    content = _read(folder, PROVENANCE)
    signed_by = None
    if verifier is not None:
        signature = find_signature(folder, PROVENANCE)
        signed_by = verifier.verify(signature, digest_bytes(content), where=folder.url)
    said = Provenance.parse(content, where=f"{folder.url}/{PROVENANCE}")
    for name, digest in said.files.items():
        if digest_bytes(_read(folder, name)) != digest:
            raise _damaged(folder, f"{name} is not the file that was written")
    unlisted = _unlisted(folder, said)
    with ExitStack() as stack:
        shards = []
        for name, digest in said.shards.items():
            _require(folder, name)
            reader = folder.open(name)
            stack.callback(reader.close)
            header = read_header(reader)
            length = len(header.text).to_bytes(LENGTH_BYTES, "little")
            if digest_bytes(length + header.text) != digest:
                raise _damaged(folder, f"the header of {name} is not the one that was written")
            shards.append((reader, header))
        run = _Run(shards)
        run.check(folder, said, resources, progress)
    return {
        "location": folder.url,
        "tensors": len(run.entries),
        "read_bytes": run.plan.read_bytes,
        "fingerprint": str(said.fingerprint),
        "signed_by": signed_by,
        "unlisted": unlisted,
    }


def _require(folder: Files, name: str) -> None:
    if folder.stat(name) is None:
        raise _damaged(folder, f"{name} is missing")


def _read(folder: Files, name: str) -> bytes:
    _require(folder, name)
    return read_file(folder, name)


def _damaged(folder: Files, what: str) -> CorruptFile:
    return CorruptFile(what, where=folder.url, hint="fetch the folder again, or apply again")


def _unlisted(folder: Files, said: Provenance) -> list[str]:
    """Files that nobody vouches for. Raises CorruptFile if a loader might take one for weights."""
    known = {*said.files, *said.shards, PROVENANCE, PROVENANCE + SUFFIX}
    extra = [blob.name for blob in folder.list() if blob.name not in known]
    for name in extra:
        if name.endswith((SAFETENSORS, *PICKLES, ".index.json")):
            raise _damaged(folder, f"{name} is not of this model, and might be loaded for it")
    return extra


class _Run:
    """All tensors of all shards, and the plan that reads them."""

    def __init__(self, shards: Sequence[tuple[Reader, Header]]) -> None:
        self.readers = [reader for reader, _ in shards]
        self.entries: list[Entry] = []
        jobs = []
        for number, (_, header) in enumerate(shards):
            for entry in header.entries:
                self.entries.append(entry)
                source = Input(number, entry.offset, entry.dtype.itemsize, entry.count)
                jobs.append(Job(None, 0, 0, entry.count, (source,)))
        self.plan = Plan(jobs)

    def check(
        self, folder: Files, said: Provenance, resources: Resources, progress: Progressing
    ) -> None:
        """Digest everything. Raises CorruptFile with the tensors that are not as they were written."""
        rows = np.zeros((self.plan.rows, DIGEST_BYTES), np.uint8)
        work = Work(
            title=f"verify {folder.url}",
            plan=self.plan,
            readers=self.readers,
            make_kernel=lambda: DigestKernel(rows),
            findings=[rows],
        )
        walk(work, resources.limits, progress)
        found = {
            entry.name: fold_tensor(entry.dtype, entry.shape, rows[self.plan.rows_of(job)])
            for job, entry in enumerate(self.entries)
        }
        wrong = sorted(
            name for name in {*found, *said.tensors} if found.get(name) != said.tensors.get(name)
        )
        if wrong or len(found) != len(self.entries):
            shown = ", ".join(wrong[:10])
            raise _damaged(folder, f"{len(wrong)} tensors are not as they were written: {shown}")
        if fold_checkpoint(found) != said.fingerprint:
            raise _damaged(folder, "its tensors do not make the model that it says it is")
