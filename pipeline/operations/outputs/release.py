"""The files of a result beside its weights: config, companions, provenance and model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.config_policy import ConfigRow, config_table, settle_config
from pipeline.checkpoints.files import (
    GENERATION,
    PROCESSORS,
    SAFETENSORS_INDEX,
    TOKENIZER,
    TOKENIZERS,
    read_all,
)
from pipeline.checkpoints.output import CONFIG, as_json, build_index
from pipeline.checkpoints.policy import has_text_part, transfer_config, vocab_size
from pipeline.checkpoints.tokenizer_union import Own, with_own
from pipeline.deltas.identity import identify
from pipeline.deltas.manifest import Identity
from pipeline.deltas.signing import SUFFIX, Signer
from pipeline.operations.addends.addend import Addend, Origin
from pipeline.operations.derivations import describe_origins
from pipeline.operations.fit import SumPlan
from pipeline.operations.outputs.card import CARD, model_card
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.report import ApplyReport
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.fingerprint import Digest, digest_bytes, fold_checkpoint, fold_tensor
from pipeline.version import TOOL


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The fingerprints of all tensors, by name, of the new base and of the result."""

    base: Mapping[str, Digest]
    result: Mapping[str, Digest]


@dataclass(frozen=True)
class Release:
    """A finished sum: what went in and how it is laid out."""

    found: Checkpoint
    base: Checkpoint
    addends: Sequence[Addend]
    scales: Sequence[float]
    layout: SumPlan
    same_base: bool
    dtype: str | None  # by torch's name, if one was asked for
    untied: bool = False  # whether the head is its own, whatever the new base's config says
    choices: Mapping[str, str] = field(default_factory=dict)  # sides by key of the config
    own: Sequence[Own] = ()  # the new base's added tokens that the tokenizer takes in

    def __post_init__(self) -> None:
        """Settle the config: a choice that can't be is found out now, not once all is written."""
        _ = self.config

    @cached_property
    def origins(self) -> list[tuple[Origin, float]]:
        """Where each addend comes from, with its scale. Not before the walk is done."""
        return [(a.origin, scale) for a, scale in zip(self.addends, self.scales, strict=True)]

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The result's config: post's own if post was restored, else by the transfer policy."""
        post = self.addends[0].config
        if self.same_base and post is not None:
            return self._settled(post)
        sizes = [vocab_size(self.base.config), *(addend.vocab_size for addend in self.addends)]
        known = [size for size in sizes if size is not None]
        size = max(known, default=None)
        made = transfer_config(self.base.config, post, vocab_size=size, dtype=self.dtype)
        return self._settled(made)

    @property
    def config_table(self) -> tuple[ConfigRow, ...]:
        """The keys on which new base, post and result do not all agree."""
        post = self.addends[0].config
        return config_table(self.base.config, post, self.config, self.choices)

    def _settled(self, config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        base, post = self.base.config, self.addends[0].config
        is_untied = self.untied and not self.same_base
        return settle_config(config, base, post, choices=self.choices, is_untied=is_untied)

    def companions(self) -> dict[str, bytes]:
        """Tokenizer, chat template and generation config: the first addend's.

        Without a tokenizer it gets the new base's, for then rows go by position; how to generate is the
        new base's only if the addend brings nothing at all. Of a multimodal base to which a text model's
        delta is added, what reads images stays.
        """
        files = self.addends[0].read_companions()
        if not any(name in files for name in TOKENIZERS):
            others = self.base.read_companions()
            if files:
                others.pop(GENERATION, None)
            files = {**others, **files}
        elif has_text_part(self.config) and not has_text_part(self.addends[0].config):
            kept = [name for name in PROCESSORS if name in self.base.companions and name not in files]
            files |= {name: read_all(self.base.companions[name]) for name in kept}
        if self.own:
            files[TOKENIZER] = with_own(files[TOKENIZER], self.own)
        return files

    def fingerprints(self, base: NDArray[np.uint8], result: NDArray[np.uint8]) -> Fingerprints:
        """The fingerprints of new base and result, from their chunks' digests."""
        plan = self.layout.plan
        bases, results = {}, {}
        for job, item in enumerate(self.layout.tensors):
            name, form = item.result.name, item.result
            mine = plan.rows_of(job)
            base_chunks = -(-item.base.count // CHUNK_ELEMENTS)
            bases[name] = fold_tensor(item.base.dtype, item.base.shape, base[mine][:base_chunks])
            results[name] = fold_tensor(form.dtype, form.shape, result[mine])
        return Fingerprints(bases, results)

    def labels(self, found: Fingerprints) -> dict[str, str]:
        """What a store can show of the result."""
        return {"kind": "model", "fingerprint": str(fold_checkpoint(found.result)), "tool": TOOL}

    def summary(self, found: Fingerprints, nonfinite: int) -> dict[str, Any]:
        """What the report learns from the walk."""
        return {
            "fingerprint": str(fold_checkpoint(found.result)),
            "base_fingerprint": str(identify(self.found, self.base, found.base).known_by),
            "addend_fingerprints": [_fingerprints(origin) for origin, _ in self.origins],
            "nonfinite": nonfinite,
            "config_table": self.config_table,
            "derived": describe_origins(self.base.derived, [origin for origin, _ in self.origins]),
        }


def other_files(
    release: Release, report: ApplyReport, found: Fingerprints, signer: Signer | None
) -> dict[str, bytes]:
    """Content by name of every file that is not a shard."""
    files = release.companions()
    index = build_index(release.layout.shards)
    if index is not None:
        files[SAFETENSORS_INDEX] = index
    files[CARD] = model_card(report, release.config, release.origins).encode()
    if release.config is not None:
        files[CONFIG] = as_json(release.config)
    provenance = Provenance(
        origin=_origin(release, report),
        fingerprint=fold_checkpoint(found.result),
        tensors=found.result,
        shards={shard.name: digest_bytes(shard.header) for shard in release.layout.shards},
        files={name: digest_bytes(content) for name, content in sorted(files.items())},
    ).to_json()
    files[PROVENANCE] = provenance
    if signer is not None:
        files[PROVENANCE + SUFFIX] = signer.sign(PROVENANCE, digest_bytes(provenance))
    return files


def identity(who: Identity | None) -> dict[str, Any] | None:
    """A checkpoint that took part, for JSON."""
    if who is None:
        return None
    derived = {} if who.derived is None else {"derived": who.derived}
    return {
        "location": who.location,
        "revision": who.revision,
        "fingerprint": str(who.known_by),
        **derived,
    }


def _origin(release: Release, report: ApplyReport) -> dict[str, Any]:
    """What a machine needs to know of where the result comes from."""
    content = asdict(report)
    for key in (
        "output", "dry_run", "deltas", "files", "read_bytes", "written_bytes", "fingerprint",
        "download_bytes", "upload_bytes", "memory_bytes", "recalled_bytes",
        "base_fingerprint", "addend_fingerprints", "pushed",
    ):  # fmt: skip
        del content[key]
    content["base"] = {
        "location": release.base.location,
        "revision": release.base.revision,
        "fingerprint": report.base_fingerprint,
    }
    content["deltas"] = [_described(origin, scale) for origin, scale in release.origins]
    content["dtype"] = release.dtype or "auto"
    content["take_config"] = dict(release.choices)
    return content


def _fingerprints(origin: Origin) -> dict[str, str]:
    """What an addend was made of: its own fingerprint, or those of its two sides."""
    if origin.fingerprint is not None:
        return {"delta": str(origin.fingerprint)}
    sides = {"base": origin.base, "post": origin.post}
    return {name: str(side.known_by) for name, side in sides.items() if side is not None}


def _described(origin: Origin, scale: float) -> dict[str, Any]:
    """An addend, for JSON. A difference that was made on the way has no location."""
    stored = {} if origin.location is None else {"location": origin.location}
    digest = {} if origin.fingerprint is None else {"fingerprint": str(origin.fingerprint)}
    sides = {"base": identity(origin.base), "post": identity(origin.post)}
    return {**stored, "scale": scale, **digest, **sides}
