"""extract-adapter: the low-rank part of a delta as an adapter that PEFT loads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Unpack

import numpy as np

from pipeline.checkpoints.adapters.config import MAX_RANK
from pipeline.checkpoints.adapters.naming import is_conv1d
from pipeline.checkpoints.adapters.weights import PREFIX, WEIGHTS_FILES
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.header import Tensor
from pipeline.checkpoints.ties import HEAD, Head
from pipeline.deltas.base_rows import in_posts_order
from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.format import BASE
from pipeline.deltas.manifest import TensorRecord
from pipeline.deltas.names import as_side_of, names_of_delta
from pipeline.deltas.signing import Signer
from pipeline.errors import UsageError
from pipeline.operations.adapters.beside import other_files, peft_config
from pipeline.operations.adapters.choosing import Choice, choose
from pipeline.operations.adapters.reading import DeltaValues
from pipeline.operations.adapters.writing import (
    WeightsFile,
    header_room,
    publish_order,
    weight_name,
)
from pipeline.operations.outputs.places import Place
from pipeline.operations.setup import Reading, Setup, Writing
from pipeline.operations.verify_delta import check_form
from pipeline.progress import Advance
from pipeline.tensors.doubles import narrow, widen
from pipeline.tensors.dtypes import F32, Bytes, DType, parse_dtype
from pipeline.tensors.low_rank import Matrix, factorise, residual, squared_norm, workspace_bytes
from pipeline.units import format_bytes


class Extracting(Reading, Writing, total=False):
    """Options of extract-adapter beside its own; see each."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """One matrix of the adapter. error: |∆ − B·A| / |∆| of the factors as written."""

    name: str
    rank: int
    error: float | None

    def __str__(self) -> str:
        error = "" if self.error is None else f", error {self.error:.4g}"
        return f"{self.name}: rank {self.rank}{error}"


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
        run = _Run(opened, model, choice, rank, energy, form, seed)
        report = run.outlook(place)
        return report if setup.dry_run else run.write(place, report)


def _check(rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise UsageError("one of rank and energy is needed", hint="--rank 16, or --energy 0.99")
    if rank is not None and not 1 <= rank <= MAX_RANK:
        raise UsageError(f"{rank} is not a rank", hint="for example --rank 16")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"{energy} is not a share", hint="for example --energy 0.99")


@dataclass
class _Run:
    """One extraction, its inputs opened.

    shared: the rank of all experts, where it is to be found: PEFT on transformers 5 stacks them, and
    multiplies the config's r for it, whatever patterns say (`_convert_peft_config_moe`). error, norm:
    squared, over all matrices so far.
    """

    delta: Delta
    base: Checkpoint | None
    choice: Choice
    rank: int | None
    energy: float | None
    dtype: DType
    seed: int
    shared: int | None = None
    error: float = 0.0
    norm: float = 0.0
    done: list[Extracted] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """Post's config, as far as there is one."""
        return dict(self.delta.manifest.post_config or {})

    def rank_of(self, record: TensorRecord) -> int:
        """The rank that is asked for, or the highest that the matrix can have."""
        side = min(record.shape)
        if record.name in self.choice.experts:
            return self.rank or self.shared or self._most_of_experts
        return min(self.rank or side, side)

    @property
    def _most_of_experts(self) -> int:
        """The highest rank that an expert can have."""
        shapes = [r.shape for r in self.choice.factors if r.name in self.choice.experts]
        return max(min(shape) for shape in shapes)

    def outlook(self, place: Place) -> ExtractReport:
        """What is known before the run. Raises UsageError if memory does not suffice."""
        shapes = {(r.shape[0], r.shape[1]): r.name for r in self.choice.factors}
        needs = {workspace_bytes(shape, self.rank): name for shape, name in shapes.items()}
        memory = max(needs) + DeltaValues(self.delta).scratch_bytes
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
            tensors=[
                Extracted(r.name, self.rank_of(r) if self.rank else 0, None) for r in self.choice.factors
            ],
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

    def _factors(self, record: TensorRecord, rank: int) -> list[Tensor]:
        """B and A of a matrix. A `Conv1D` has its weight the other way round."""
        out, inner = record.shape
        module = self.choice.loaded.module(record.name)
        if is_conv1d(self.config, module):
            out, inner = inner, out
        shapes = {"A": (rank, inner), "B": (out, rank)}
        return [Tensor(weight_name(module, part), self.dtype, shape) for part, shape in shapes.items()]

    def _whole(self) -> list[tuple[Tensor, str]]:
        """What is held whole, each with the delta's name of it; a tied head beside its embedding."""
        found = []
        targets = set(self.choice.targets)
        for record in self.choice.whole:
            name = self.choice.loaded.name(record.name)
            module, _, end = name.rpartition(".")
            name = f"{module}.base_layer.{end}" if module in targets else name
            found.append((Tensor(PREFIX + name, record.post, record.shape), record.name))
            if record.name == self._tied_embedding:
                found.append((Tensor(PREFIX + HEAD, record.post, record.shape), record.name))
        return found

    @cached_property
    def _tied_embedding(self) -> str | None:
        """The delta's name of the embedding that is the head, too."""
        names = names_of_delta(self.delta)
        return names.embedding_of(HEAD) if names.head() is Head.TIED else None

    def _largest(self) -> list[Tensor]:
        """The tensors of the file, with the highest ranks that they may come to."""
        records = self.choice.factors
        factors = [tensor for r in records for tensor in self._factors(r, self.rank_of(r))]
        return factors + [tensor for tensor, _ in self._whole()]

    def write(self, place: Place, report: ExtractReport) -> ExtractReport:
        """Write the folder and publish it."""
        largest = self._largest()
        values = DeltaValues(self.delta)
        room = header_room(largest)
        size = room + sum(tensor.nbytes for tensor in largest)
        experts = [r for r in self.choice.factors if r.name in self.choice.experts and self.energy]
        total = sum(4 * math.prod(record.shape) for record in (*experts, *self.choice.factors))
        with (
            place.create_folder(size) as folder,
            place.setup.progress(f"extract {place.location}", total) as advance,
        ):
            with folder.create(WEIGHTS_FILES[0], size_hint=size) as writer:
                file = WeightsFile(writer, room)
                if experts:
                    self.shared = max(self._needed(record, values, advance) for record in experts)
                for record in self.choice.factors:
                    self._extract(record, values, file, advance)
                for tensor, name in self._whole():
                    assert self.base is not None
                    file.add(tensor, values.post(name, self.base))
                written = file.finish()
            error = math.sqrt(self.error / self.norm) if self.norm else 0.0
            files = self._files(file, error, place.setup.signer)
            for name, content in files.items():
                with folder.create(name, size_hint=len(content)) as writer:
                    writer.write(0, content)
                    writer.commit()
            order = publish_order(files)
            folder.publish(order)
        return replace(report, tensors=self.done, written_bytes=written, error=error, files=order)

    def _needed(self, record: TensorRecord, values: DeltaValues, advance: Advance) -> int:
        """The least rank that keeps the energy of a matrix."""
        matrix = values.matrix(record.name)
        left, _ = self._factorise(record, matrix, None)
        advance(4 * matrix.size)
        return len(left.T)

    def _factorise(
        self, record: TensorRecord, matrix: Matrix, rank: int | None
    ) -> tuple[Matrix, Matrix]:
        """B and A of that rank, or of the energy that is asked for. Raises UsageError."""
        energy = self.energy if rank is None else None
        try:
            return factorise(matrix, rank=rank, energy=energy, seed=self.seed)
        except OverflowError as error:
            raise UsageError(
                f"{record.name} is not to be decomposed in float32: its differences are too large",
                where=self.delta.location,
                hint="leave it out by --skip",
            ) from error

    def _extract(
        self, record: TensorRecord, values: DeltaValues, file: WeightsFile, advance: Advance
    ) -> None:
        """Decompose one matrix, write its factors, and measure what they lose."""
        matrix = values.matrix(record.name)
        wanted = self.shared if record.name in self.choice.experts and self.shared else self.rank
        left, right = self._factorise(record, matrix, wanted)
        rank = left.shape[1]
        if record.name in self.choice.experts and wanted is not None and rank < wanted:
            left = np.pad(left, ((0, 0), (0, wanted - rank)))
            right = np.pad(right, ((0, wanted - rank), (0, 0)))
            rank = wanted
        tensors = self._factors(record, rank)
        turned = is_conv1d(self.config, self.choice.loaded.module(record.name))
        rounded = []
        for tensor, values_of in zip(
            tensors, (left.T, right.T) if turned else (right, left), strict=True
        ):
            data, kept = _rounded(values_of, self.dtype)
            if not np.isfinite(kept).all():
                raise UsageError(
                    f"the factors of {record.name} are beyond {self.dtype}",
                    where=self.delta.location,
                    hint="--dtype bfloat16 or float32 has room for them",
                )
            file.add(tensor, [data])
            rounded.append(kept)
        thin, flat = (rounded[0].T, rounded[1].T) if turned else (rounded[1], rounded[0])
        norm, lost = squared_norm(matrix), residual(matrix, thin, flat)
        self.norm, self.error = self.norm + norm, self.error + lost
        self.done.append(Extracted(record.name, rank, math.sqrt(lost / norm) if norm else 0.0))
        advance(4 * matrix.size)

    def _files(self, file: WeightsFile, error: float, signer: Signer | None) -> dict[str, bytes]:
        """What lies beside the weights."""
        ranks = dict(zip(self.choice.targets, (each.rank for each in self.done), strict=True))
        usual = self.rank or self.shared or max(ranks.values())
        saved = self.choice.saved
        if any(name == self._tied_embedding for _, name in self._whole()):
            saved = [*saved, HEAD.removesuffix(".weight")]
        config = peft_config(self.delta, ranks, usual, saved=saved, biases=self.choice.biases)
        facts = {"rank": self.rank, "energy": self.energy, "error": error}
        return other_files(self.delta, config, file, facts, signer)


def _rounded(values: Matrix, dtype: DType) -> tuple[Bytes, Matrix]:
    """The bytes of a factor in its format, and the values that these are."""
    data = np.empty(values.size * dtype.itemsize, np.uint8)
    narrow(values.astype(np.float64).reshape(-1), data, dtype)
    return data, widen(data, dtype).reshape(values.shape).astype(np.float32)
