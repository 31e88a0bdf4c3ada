"""A model folder as output: shards that a walk fills, then the files beside them, published as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.checkpoints.output import Shard, publishing_order
from pipeline.engine.work import Work
from pipeline.operations.outputs.places import Place
from pipeline.tensors.fingerprint import digest_bytes


@dataclass(frozen=True, slots=True)
class Beside:
    """What is known once the weights are written: labels for them, and the content of other files."""

    labels: Mapping[str, str]
    files: Mapping[str, bytes]


def write_model(
    place: Place, work: Work, shards: Sequence[Shard], finish: Callable[[], Beside]
) -> list[str]:
    """Walk `work`, whose writers are the `shards`, and publish the folder; returns its files' names.

    finish: says what else belongs to it, once the walk is done.
    """
    work = replace(work, options=(*work.options, [digest_bytes(shard.header) for shard in shards]))
    with place.create_folder(sum(shard.nbytes for shard in shards)) as folder:
        writers = [folder.create(shard.name, size_hint=shard.nbytes) for shard in shards]
        for writer, shard in zip(writers, shards, strict=True):
            writer.write(0, shard.header)
        journal = place.journal(work)
        setup = place.setup
        setup.walker(work, setup.resources.limits, setup.progress, writers=writers, journal=journal)
        beside = finish()
        for writer in writers:
            writer.label(beside.labels)
            writer.commit()
        for name, content in beside.files.items():
            with folder.create(name, size_hint=len(content)) as writer:
                writer.write(0, content)
                writer.commit()
        names = [*(shard.name for shard in shards), *beside.files]
        folder.publish(publishing_order(names))
        if journal is not None:
            journal.finish()
    return names
