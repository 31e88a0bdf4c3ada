"""The files of a result beside its weights: config, companions, provenance and model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.files import SAFETENSORS_INDEX, read_all
from pipeline.checkpoints.output import CONFIG, as_json, build_index
from pipeline.checkpoints.policy import config_differences, transfer_config, vocab_size
from pipeline.deltas.delta import Delta
from pipeline.operations.card import model_card
from pipeline.operations.fit import SumPlan
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.fingerprint import fold_checkpoint, fold_tensor
from pipeline.version import TOOL

if TYPE_CHECKING:
    from pipeline.operations.apply import ApplyReport

PROVENANCE = "paramdelta.json"
CARD = "README.md"


@dataclass(frozen=True)
class Release:
    """A finished sum: what went in and how it is laid out."""

    base: Checkpoint
    deltas: Sequence[Delta]
    scales: Sequence[float]
    layout: SumPlan
    same_base: bool
    dtype: str | None  # by torch's name, if one was asked for

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The result's config: post's own if post was restored, else by the transfer policy."""
        post = self.deltas[0].manifest.post_config
        if self.same_base and post is not None:
            return post
        sizes = [vocab_size(self.base.config), *(delta.vocab_size for delta in self.deltas)]
        known = [size for size in sizes if size is not None]
        size = max(known, default=None)
        return transfer_config(self.base.config, post, vocab_size=size, dtype=self.dtype)

    def companions(self) -> dict[str, bytes]:
        """Tokenizer, chat template and generation config: the first delta's, else the new base's."""
        first = self.deltas[0]
        if first.companions:
            return {name: first.read_companion(name) for name in first.companions}
        return {name: read_all(reader) for name, reader in self.base.companions.items()}

    def summary(
        self, base: NDArray[np.uint8], result: NDArray[np.uint8], nonfinite: NDArray[np.int64]
    ) -> dict[str, Any]:
        """What the report learns from the chunks' digests and counts."""
        rows = self.layout.plan.first_rows
        base_digests, result_digests = {}, {}
        for job, item in enumerate(self.layout.tensors):
            name, form = item.result.name, item.result
            mine = slice(rows[job], rows[job + 1])
            base_chunks = -(-item.base.count // CHUNK_ELEMENTS)
            base_digests[name] = fold_tensor(item.base.dtype, item.base.shape, base[mine][:base_chunks])
            result_digests[name] = fold_tensor(form.dtype, form.shape, result[mine])
        post = self.deltas[0].manifest.post_config
        return {
            "fingerprint": str(fold_checkpoint(result_digests)),
            "base_fingerprint": str(fold_checkpoint(base_digests)),
            "nonfinite": int(nonfinite.sum()),
            "carried": tuple(
                item.result.name
                for item in self.layout.tensors
                if any(s.record.carried and s.record.changed for s in item.stored)
            ),
            "config_differences": tuple(config_differences(self.base.config, post)),
        }


def other_files(release: Release, report: ApplyReport) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file that is not a shard."""
    yield from release.companions().items()
    index = build_index(release.layout.shards)
    if index is not None:
        yield SAFETENSORS_INDEX, index
    yield PROVENANCE, as_json(_provenance(release, report))
    yield CARD, model_card(report, release.config).encode()
    if release.config is not None:
        yield CONFIG, as_json(release.config)


def _provenance(release: Release, report: ApplyReport) -> dict[str, Any]:
    """What a machine needs to know of where the result comes from. No times: it is reproducible."""
    content = asdict(report)
    for key in ("output", "dry_run", "deltas", "files", "read_bytes", "written_bytes"):
        del content[key]
    content["base"] = {
        "location": release.base.location,
        "revision": release.base.revision,
        "fingerprint": content.pop("base_fingerprint"),
    }
    content["deltas"] = [
        {
            "location": delta.location,
            "scale": scale,
            "base": str(delta.manifest.base.fingerprint),
            "post": str(delta.manifest.post.fingerprint),
            "post_location": delta.manifest.post.location,
            "post_revision": delta.manifest.post.revision,
        }
        for delta, scale in zip(release.deltas, release.scales, strict=True)
    ]
    return {"tool": TOOL, **content}
