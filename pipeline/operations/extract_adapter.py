"""extract-adapter: the low-rank part of a delta as an adapter that PEFT loads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Unpack

from pipeline.checkpoints.adapters.config import MAX_RANK
from pipeline.checkpoints.adapters.weights import PREFIX
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.files import ADAPTER_WEIGHTS
from pipeline.checkpoints.header import Tensor
from pipeline.checkpoints.ties import HEAD, Head
from pipeline.deltas.base_rows import in_posts_order
from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.format import BASE
from pipeline.deltas.names import as_side_of, names_of_delta
from pipeline.deltas.signing import Signer
from pipeline.errors import UsageError
from pipeline.operations.adapters.beside import other_files, peft_config
from pipeline.operations.adapters.choosing import Choice, choose
from pipeline.operations.adapters.factoring import Extracted, Factoring
from pipeline.operations.adapters.reading import DeltaValues
from pipeline.operations.adapters.writing import (
    WeightsFile,
    header_room,
    publish_order,
)
from pipeline.operations.outputs.places import Place
from pipeline.operations.setup import Reading, Setup, Writing
from pipeline.operations.verify_delta import check_form
from pipeline.tensors.dtypes import F32, parse_dtype
from pipeline.tensors.low_rank import workspace_bytes
from pipeline.units import format_bytes


class Extracting(Reading, Writing, total=False):
    """Options of extract-adapter beside its own; see each."""


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What extract-adapter did, or with `dry_run` would do.

    tensors: the matrices that became factors; with `energy` their ranks are known afterwards, and 0 on
    a dry run. whole: parameters that it holds as post has them. left_out: what changed and is not in it.
    error: |∆ − B·A| / |∆| over all matrices. memory_bytes: what the largest of them takes. notes: what
    to know before it is loaded.
    """

    delta: str
    output: str
    dry_run: bool
    tensors: Sequence[Extracted]
    whole: Sequence[str]
    left_out: Sequence[str]
    memory_bytes: int
    written_bytes: int
    error: float | None = None
    files: Sequence[str] = ()
    notes: Sequence[str] = ()


def extract_adapter(
    delta: str,
    output: str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    base: str | None = None,
    only: str | None = None,
    skip: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    **options: Unpack[Extracting],
) -> ExtractReport:
    """Write the delta's matrices, as products of rank `rank`, as the adapter folder `output`.

    energy: in place of rank, the share of each matrix's squared norm that its product must keep; the
    rank is the least that does. base: the delta's own base; with it, what else changed is held whole, as
    post has it. only, skip: regular expressions of names. dtype: of the factors. seed: of what is drawn
    to find large matrices' foremost parts. options: see `Reading` and `Writing`.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`.
    """
    _check(rank, energy)
    form = parse_dtype(dtype) or F32
    setup = Setup.of(options)
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    with ExitStack() as stack:
        opened = stack.enter_context(open_delta(delta, settings=setup.settings))
        choice = choose(opened, only=only, skip=skip, whole=base is not None)
        model = None
        if base is not None:
            found = stack.enter_context(open_checkpoint(base, settings=setup.settings))
            named = as_side_of(opened, found, is_base=True)
            model = in_posts_order(named, opened.manifest.base_rows)
            check_form(opened, model, BASE)
        factoring = Factoring(DeltaValues(opened), choice, rank, energy, form, seed)
        run = _Run(opened, model, choice, factoring)
        report = run.outlook(place)
        return report if setup.dry_run else run.write(place, report)


def _check(rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise UsageError("one of rank and energy is needed", hint="--rank 16, or --energy 0.99")
    if rank is not None and not 1 <= rank <= MAX_RANK:
        raise UsageError(f"{rank} is not a rank", hint="for example --rank 16")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"{energy} is not a share", hint="for example --energy 0.99")


@dataclass(frozen=True)
class _Run:
    """One extraction, its inputs opened."""

    delta: Delta
    base: Checkpoint | None
    choice: Choice
    factoring: Factoring

    def outlook(self, place: Place) -> ExtractReport:
        """What is known before the run. Raises UsageError if memory does not suffice."""
        shapes = {(r.shape[0], r.shape[1]): r.name for r in self.choice.factors}
        needs = {workspace_bytes(shape, self.factoring.rank): name for shape, name in shapes.items()}
        memory = max(needs) + self.factoring.values.scratch_bytes
        limit = place.setup.resources.limits.memory_bytes
        if memory > limit:
            raise UsageError(
                f"{needs[max(needs)]} takes {format_bytes(memory)} to be decomposed, and the bound is "
                f"{format_bytes(limit)}",
                hint=f"give --memory {math.ceil(memory / (1 << 30))}GiB, or leave it out by --skip",
            )
        return ExtractReport(
            delta=self.delta.location,
            output=place.location,
            dry_run=place.setup.dry_run,
            tensors=self.factoring.outlook(),
            whole=[tensor.name.removeprefix(PREFIX) for tensor, _ in self._whole()],
            left_out=self.choice.left_out,
            memory_bytes=memory,
            notes=self._notes(),
            written_bytes=sum(tensor.nbytes for tensor in self._largest()),
        )

    def _notes(self) -> list[str]:
        """The base must have as many rows as what is held whole before PEFT loads it."""
        moved = self.delta.manifest.base_rows
        rows = {r.shape[0] for r in self.choice.whole if r.shape != r.base_shape}
        if moved and self.choice.whole and moved.order.count != moved.order.rows:
            rows.add(moved.order.count)
        return [
            f"the vocabulary has another size: call model.resize_token_embeddings({n}) first"
            for n in rows
        ]

    def _whole(self) -> list[tuple[Tensor, str]]:
        """What is held whole, each with the delta's name of it; what is tied to it beside it."""
        found = []
        targets = set(self.choice.targets)
        for record in self.choice.whole:
            name = self.choice.loaded.name(record.name)
            module, _, end = name.rpartition(".")
            name = f"{module}.base_layer.{end}" if module in targets else name
            found.append((Tensor(PREFIX + name, record.post, record.shape), record.name))
        if any(name == self._tied_embedding for _, name in found):
            for copy, name in self._copies.items():
                record = self.delta.tensors[name].record
                found.append((Tensor(PREFIX + copy, record.post, record.shape), name))
        return found

    @cached_property
    def _tied_embedding(self) -> str | None:
        """The delta's name of the embedding that is the head, too."""
        names = names_of_delta(self.delta)
        return names.embedding_of(HEAD) if names.head() is Head.TIED else None

    @cached_property
    def _copies(self) -> dict[str, str]:
        """What is tied to the embedding, with the delta's name of each: a head, or T5's three tables.

        A classifier has none. PEFT wants modules whole: a head's bias that is tied (BERT) comes along.
        """
        loaded, embedding = self.choice.loaded, self._tied_embedding or ""
        copies = loaded.copies(loaded.name(embedding))
        if copies is None:
            return {HEAD: embedding}
        modules = {copy.rpartition(".")[0] for copy in copies}
        tied = {
            copy: name for name in self.delta.tensors for copy in loaded.copies(loaded.name(name)) or ()
        }
        return {copy: name for copy, name in tied.items() if copy.rpartition(".")[0] in modules}

    def _largest(self) -> list[Tensor]:
        """The tensors of the file, with the highest ranks that they may come to."""
        return self.factoring.largest() + [tensor for tensor, _ in self._whole()]

    def write(self, place: Place, report: ExtractReport) -> ExtractReport:
        """Write the folder and publish it."""
        largest, factoring = self._largest(), self.factoring
        room = header_room(largest)
        size = room + sum(tensor.nbytes for tensor in largest)
        records = (*factoring.searched, *self.choice.factors)
        total = sum(4 * math.prod(record.shape) for record in records)
        with (
            place.create_folder(size) as folder,
            place.setup.progress(f"extract {place.location}", total) as advance,
        ):
            with folder.create(ADAPTER_WEIGHTS[0], size_hint=size) as writer:
                file = WeightsFile(writer, room)
                factoring.search(advance)
                for record in self.choice.factors:
                    factoring.write(record, file)
                    advance(4 * math.prod(record.shape))
                for tensor, name in self._whole():
                    assert self.base is not None
                    file.add(tensor, factoring.values.post(name, self.base))
                written = file.finish()
            files = self._files(file, place.setup.signer)
            for name, content in files.items():
                with folder.create(name, size_hint=len(content)) as writer:
                    writer.write(0, content)
                    writer.commit()
            order = publish_order(files)
            folder.publish(order)
        done, error = factoring.done, factoring.error
        return replace(report, tensors=done, written_bytes=written, error=error, files=order)

    def _files(self, file: WeightsFile, signer: Signer | None) -> dict[str, bytes]:
        """What lies beside the weights."""
        found = self.factoring
        ranks = dict(zip(self.choice.targets, (each.rank for each in found.done), strict=True))
        usual = found.rank or found.shared or max(ranks.values())
        saved = self.choice.saved
        if any(name == self._tied_embedding for _, name in self._whole()):
            saved = [*saved, *dict.fromkeys(copy.rpartition(".")[0] for copy in self._copies)]
        config = peft_config(self.delta, ranks, usual, saved=saved, biases=self.choice.biases)
        facts = {"rank": found.rank, "energy": found.energy, "error": found.error}
        return other_files(self.delta, config, file, facts, signer)
