"""Whether what lies under an output's name is what a run would write there, as headers tell.

A result says what it is made of, by fingerprints. So it is compared with what a run would be made of
now; nothing is kept about it anywhere else. Of the weights of an input only the fingerprint is asked
for: `fingerprint_of` knows it, or says None, and then it must be read before anything can be said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack, cast

from pipeline.checkpoints.adapters.post import open_post
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.files import read_file
from pipeline.checkpoints.output import CONFIG, SHARD_BYTES, as_json
from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.format import CARRIED, DEFAULT_CODEC, parse_codec
from pipeline.deltas.signing import SUFFIX
from pipeline.errors import PipelineError
from pipeline.operations.addends.addend import Addend
from pipeline.operations.addends.stored import StoredAddend
from pipeline.operations.addends.subtraction import Subtraction
from pipeline.operations.arguments import Scaled, ScaledAddend, scaled
from pipeline.operations.compute import Computation
from pipeline.operations.fusion.choice import Fusion
from pipeline.operations.outputs.places import Place
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.report import SAME_BASE
from pipeline.operations.outputs.signatures import find_signature
from pipeline.operations.setup import Setup, Transferring, Writing
from pipeline.operations.sum import Applying, Form, Inputs
from pipeline.storage.base import Store
from pipeline.tensors.dtypes import parse_dtype
from pipeline.tensors.fingerprint import Digest, digest_bytes

_CHECKS = ("key", "require_signature", "old_base", "allow_unrelated")
State = Literal["missing", "stale", "unknown", "fresh"]
# What is wrong if they differ, a checkpoint, and the fingerprint that the result says it had.
_Made = tuple[str, Checkpoint, Digest | None]
FingerprintOf = Callable[[Checkpoint], Digest | None]


@dataclass(frozen=True, slots=True)
class Freshness:
    """How an output stands to what a run would write.

    reason: why it is stale, in words that go on from "it". fingerprint: of what lies there, if it is
    fresh. unread: the locations of inputs whose fingerprints nobody knows. is_underway: whether somebody
    is publishing there, or was when he was stopped.
    """

    state: State
    reason: str = ""
    fingerprint: str | None = None
    unread: Sequence[str] = ()
    is_underway: bool = False


def compute_freshness(
    base: str,
    post: str,
    output: str,
    *,
    fingerprint_of: FingerprintOf,
    dtype: str = "auto",
    codec: str = DEFAULT_CODEC,
    **options: Unpack[Transferring],
) -> Freshness:
    """How the delta at `output` stands to what `compute` of the rest would write."""
    setup = Setup.of(options)
    place = Place.for_delta(output, setup)
    if place.store.stat(place.name) is None:
        return Freshness("missing")
    with ExitStack() as stack:
        settings = setup.settings
        old = stack.enter_context(open_checkpoint(base, settings=settings, headers_only=True))
        new = stack.enter_context(open_post(post, old, settings=settings, headers_only=True))
        run = Computation.prepare(old, new, parse_dtype(dtype), parse_codec(codec))
        try:
            delta = stack.enter_context(open_delta(output, settings=setup.settings))
        except PipelineError:
            return Freshness("stale", "is no delta that can be read")
        said = delta.manifest
        problems = _delta_problems(delta, place, codec)
        stored = {tensor.name: (tensor.dtype, tensor.shape) for tensor in run.layout.tensors}
        if stored != {
            (CARRIED if each.carried else "") + each.name: (each.stored, each.shape)
            for each in said.tensors
        }:
            problems.append("has other tensors, or in other formats")
        companions = run.post.read_companions()
        if said.files != _digests(companions) or said.post_config != run.post.config:
            problems.append("has another tokenizer or config than the post model has now")
        made_of = [
            (f"is of another {what}", model, identity.known_by if identity else None)
            for what, model, identity in (("base", old, said.base), ("post", new, said.post))
        ]
        return _verdict(problems, made_of, fingerprint_of, said.fingerprint)


def combine_freshness(
    deltas: Sequence[Scaled],
    output: str,
    *,
    codec: str = DEFAULT_CODEC,
    **options: Unpack[Writing],
) -> Freshness:
    """How the delta at `output` stands to what `combine` of the rest would write."""
    setup = Setup.of(options)
    place = Place.for_delta(output, setup)
    if place.store.stat(place.name) is None:
        return Freshness("missing")
    with ExitStack() as stack:
        try:
            made = stack.enter_context(open_delta(output, settings=setup.settings))
        except PipelineError:
            return Freshness("stale", "is no delta that can be read")
        problems = _delta_problems(made, place, codec)
        wanted = []
        for name, scale in deltas:
            delta = stack.enter_context(open_delta(name, settings=setup.settings))
            wanted.append((delta.manifest.fingerprint, scale))
        if wanted != [(each.fingerprint, each.scale) for each in made.manifest.ancestors]:
            problems.append("is of other deltas or scales")
        return _verdict(problems, [], lambda model: None, made.manifest.fingerprint)


def apply_freshness(
    base: str,
    deltas: Sequence[str | ScaledAddend],
    output: str,
    *,
    fingerprint_of: FingerprintOf,
    scale: float = 1.0,
    dtype: str = "auto",
    shard_size: str | int = SHARD_BYTES,
    take_config: Mapping[str, str] | Sequence[str] | None = None,
    **options: Unpack[Applying],
) -> Freshness:
    """How the model at `output` stands to what `apply` of the rest would write.

    What only says whether it may be written at all, as `require_signature`, is passed over.
    """
    wanted = scaled(deltas, scale)
    fusion, others = Fusion.take(options, [factor for _, factor in wanted])
    form = Form.parse(dtype, shard_size, fusion, take_config)
    setup = Setup.of(cast(Transferring, {n: v for n, v in others.items() if n not in _CHECKS}))
    place = Place.for_model(output, setup)
    if not place.store.has_folder(place.name):
        return Freshness("missing")
    folder = place.store.folder(place.name)
    if folder.published() is None:
        return Freshness("stale", "is being published, or was", is_underway=True)
    said = _provenance(folder)
    if said is None:
        return Freshness("stale", f"is no model that says what it is made of ({PROVENANCE})")
    with ExitStack() as stack:
        looking = replace(setup, dry_run=True)  # no weights are fetched
        inputs = Inputs.open(stack, base, wanted, form, looking)
        same_base = said.origin.get("case") == SAME_BASE and form.fusion.is_plain
        total = inputs.on_own_base() if same_base else inputs.on_another_base(reads=False)
        problems = _missing_files(folder, said)
        if setup.signer is not None and folder.stat(PROVENANCE + SUFFIX) is None:
            problems.append("is not signed")
        layout = total.plan()
        if said.shards != {shard.name: digest_bytes(shard.header) for shard in layout.shards}:
            problems.append("has other tensors, formats or shards")
        if said.origin.get("fusion") != json.loads(json.dumps(total.fused.report().get("fusion"))):
            problems.append("puts deltas together otherwise")
        release = total.release(layout)
        expected = {**release.companions(), CONFIG: as_json(release.config)}
        if any(said.files.get(name) != digest for name, digest in _digests(expected).items()):
            problems.append("has another tokenizer or config")
        entries = said.origin["deltas"]
        if [entry.get("scale") for entry in entries] != total.scales:
            return Freshness("stale", "is of other deltas or scales")
        old = Digest.parse(said.origin["base"]["fingerprint"])
        made_of: list[_Made] = [("is of another base", inputs.base, old)]
        for addend, entry in zip(inputs.addends, entries, strict=True):
            found = _made_of(addend, entry)
            if found is None:
                problems.append("is of other deltas or scales")
            else:
                made_of += found
        return _verdict(problems, made_of, fingerprint_of, said.fingerprint)


def _made_of(addend: Addend, entry: Mapping[str, Any]) -> list[_Made] | None:
    """What of an addend must be read to know whether it is the `entry` of a provenance; None if not."""
    match addend:
        case StoredAddend(delta):
            same = entry.get("fingerprint") == str(delta.manifest.fingerprint)
            return [] if same else None
        case Subtraction(found=(base, post)) if "fingerprint" not in entry:
            sides = (("base", base), ("post", post))
            return [
                (f"is of another {side} of a difference", model, _fingerprint_in(entry.get(side)))
                for side, model in sides
            ]
    return None


def _fingerprint_in(identity: Mapping[str, Any] | None) -> Digest | None:
    return Digest.parse(identity["fingerprint"]) if identity else None


def _verdict(
    problems: Sequence[str],
    inputs: Iterable[_Made],
    fingerprint_of: FingerprintOf,
    fingerprint: Digest,
) -> Freshness:
    """What follows from problems that headers show, and from inputs: what is wrong if they differ."""
    unread = []
    found = list(problems)
    for problem, model, said in inputs:
        now = fingerprint_of(model)
        if now is None:
            unread.append(model.location)
        elif now != said:
            found.append(problem)
    if found:
        return Freshness("stale", ", and ".join(found))
    if unread:
        return Freshness("unknown", unread=unread)
    return Freshness("fresh", fingerprint=str(fingerprint))


def _delta_problems(delta: Delta, place: Place, codec: str) -> list[str]:
    problems = []
    if delta.manifest.codec != codec:
        problems.append(f"is packed by {delta.manifest.codec}")
    if place.setup.signer is not None and find_signature(place.store, place.name) is None:
        problems.append("is not signed")
    return problems


def _digests(files: Mapping[str, bytes]) -> dict[str, Digest]:
    return {name: digest_bytes(content) for name, content in files.items()}


def _provenance(folder: Store) -> Provenance | None:
    """What a folder says of itself; None if it says nothing, or nothing that can be believed."""
    try:
        if folder.stat(PROVENANCE) is None:
            return None
        return Provenance.parse(read_file(folder, PROVENANCE), where=f"{folder.url}/{PROVENANCE}")
    except PipelineError:
        return None


def _missing_files(folder: Store, said: Provenance) -> list[str]:
    names: Iterator[str] = (name for name in (*said.files, *said.shards) if not folder.stat(name))
    lost = next(names, None)
    return [] if lost is None else [f"lacks {lost}"]
