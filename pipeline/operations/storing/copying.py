"""copy: a delta with its signature, or a model folder, from one store to another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.checkpoints.files import SAFETENSORS, read_file
from pipeline.checkpoints.header import read_header
from pipeline.checkpoints.output import publishing_order
from pipeline.deltas.delta import read_delta
from pipeline.deltas.format import VERSION_KEY
from pipeline.deltas.signing import SUFFIX
from pipeline.errors import CorruptFile, NotACheckpoint, PipelineError, UsageError
from pipeline.operations.outputs.delta import labels_of
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.signatures import find_signature
from pipeline.operations.setup import DEFAULT_MEMORY, Resources
from pipeline.operations.storing.checks import Check, Span, check_of_delta, check_of_file
from pipeline.operations.storing.shelf import Item, find_item, is_root
from pipeline.operations.verify_delta import check_delta
from pipeline.progress import Advance, Progressing, silent
from pipeline.settings import Settings
from pipeline.storage.base import Puller, Reader, Store, Writer
from pipeline.storage.errors import changed, exists
from pipeline.storage.locations import parse_delta
from pipeline.storage.opening import open_parent
from pipeline.storage.pour import pour, pull
from pipeline.tensors.fingerprint import digest_bytes
from pipeline.units import MIB

_PULLED_FROM_BYTES = MIB  # a smaller file is here and away again sooner


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What copy did, or with `dry_run` would do.

    kind: delta, model or file. server_side: the account copied the bytes by itself. checked: every byte
    was held against the digests that the delta or the model has of itself, before it was published.
    """

    source: str
    output: str
    dry_run: bool
    kind: str
    files: int
    written_bytes: int
    signed: bool
    server_side: bool = False
    checked: bool = False


def copy(
    source: str,
    destination: str,
    *,
    store: str | None = None,
    memory: str | int = DEFAULT_MEMORY,
    tier: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> CopyReport:
    """Copy the delta (with its signature), the model folder or the file at `source` to `destination`.

    Plain names are names in the store; a destination that ends with a slash keeps the source's name.
    Within one storage account the service copies by itself; elsewhere the bytes flow through buffers of
    `memory` and past the digests that they should have. The copy appears whole, or not at all, and not
    if the source has changed meanwhile. tier: access tier of blobs.
    Raises the errors of `pipeline.errors`.
    """
    settings = Settings.load(store=store, tier=tier)
    resources = Resources.parse(memory=memory, workers=None, device="cpu")
    origin, name, shown = _place(source.rstrip("/") or source, settings)
    item = find_item(origin, name)
    if destination.endswith("/"):
        destination += name.rpartition("/")[2]
    target, new_name, new_shown = _place(destination, settings)
    if (origin.url, name) == (target.url, new_name):
        raise UsageError("is the source itself", where=new_shown, hint="name another destination")
    run = _Run(origin, item, source, target, new_name, new_shown, overwrite, resources)
    run.refuse_taken()
    report = CopyReport(
        source=shown,
        output=new_shown,
        dry_run=dry_run,
        kind="model" if item.is_model else "file",
        files=len(item.files),
        written_bytes=item.nbytes,
        signed=item.is_signed,
    )
    if item.is_model:
        return run.copy_model(report, progress)
    return run.copy_file(report, shown, settings, progress)


def _place(text: str, settings: Settings) -> tuple[Store, str, str]:
    """The store that holds what is called `text`, its name there, and how to show it."""
    location = parse_delta(text)
    if is_root(location):
        raise UsageError("is a whole store", where=str(location), hint="name what is in it")
    return *open_parent(location, settings), str(location)


@dataclass
class _Run:
    """One copy on its way. checked, pulled: whether every file was, and any file."""

    origin: Store
    item: Item
    source: str = field(repr=False)  # may carry a signature
    target: Store
    name: str
    shown: str
    overwrite: bool
    resources: Resources
    checked: bool = field(default=True, init=False)
    pulled: bool = field(default=False, init=False)

    def refuse_taken(self) -> None:
        """Raise OutputExists, before anything is read, if something is in the way."""
        if self.item.is_model:
            if self.target.has_folder(self.name) and not self.overwrite:
                raise exists(self.shown)
            return
        for suffix in ("", SUFFIX):
            if self.target.stat(self.name + suffix) and not self.overwrite:
                raise exists(self.shown + suffix)

    # -- a file ------------------------------------------------------------------------------

    def copy_file(
        self, report: CopyReport, shown: str, settings: Settings, progress: Progressing
    ) -> CopyReport:
        """Copy a delta or another file, and its signature."""
        reader = self.origin.open(self.item.name)
        try:
            is_delta = self._is_delta(reader)
            if is_delta:
                report = replace(report, kind="delta")
            if report.dry_run:
                return report
            with (
                self.target.create(
                    self.name, size_hint=reader.nbytes, overwrite=self.overwrite
                ) as writer,
                progress(f"copy {shown}", reader.nbytes) as advance,
            ):
                check = None
                if is_delta:
                    delta = read_delta(reader, location=shown)
                    writer.label(labels_of(delta.manifest))
                    if not self._can_pull(reader, writer):
                        check = check_of_delta(delta) or self._checked(reader, settings, progress)
                self._transfer(reader, writer, check, advance)
                signature = find_signature(self.origin, self.item.name)
                self._refuse_changed()
                writer.commit()
        finally:
            reader.close()
        self._sign(signature)
        return replace(report, server_side=self.pulled, checked=self.checked)

    def _checked(self, reader: Reader, settings: Settings, progress: Progressing) -> Check:
        """A plain delta's: its digests need two places at once, so it is read once more before."""
        check_delta(
            self.source, settings, self.resources, progress,
            base=None, post=None, verifier=None, signature=None,
        )  # fmt: skip
        return Check([Span(reader.nbytes, None, reader.name)], reader.name)

    def _is_delta(self, reader: Reader) -> bool:
        return self.item.name.endswith(SAFETENSORS) and VERSION_KEY in read_header(reader).metadata

    def _sign(self, signature: bytes | None) -> None:
        """Put the signature beside the copy; after it, as `DeltaPlace.sign` does, and one or none."""
        name = self.name + SUFFIX
        if signature is None:
            for file in self.target.list(name):
                if file.name == name:
                    self.target.delete(file)
            return
        with self.target.create(name, size_hint=len(signature), overwrite=self.overwrite) as writer:
            writer.write(0, signature)
            writer.commit()

    # -- a model -----------------------------------------------------------------------------

    def copy_model(self, report: CopyReport, progress: Progressing) -> CopyReport:
        """Copy a model folder, all of it or nothing."""
        folder = self.origin.folder(self.item.name).published()
        if folder is None or not self.item.is_whole:
            raise NotACheckpoint(
                "is being published or deleted, or was when that was stopped",
                where=f"{self.origin.url}/{self.item.name}",
                hint="wait for it, or write it again with --overwrite",
            )
        if report.dry_run:
            return report
        blobs = {blob.name: blob for blob in folder.list()}
        said, own = None, b""
        if PROVENANCE in blobs:
            own = read_file(folder, PROVENANCE)
            said = Provenance.parse(own, where=f"{folder.url}/{PROVENANCE}")
            if lost := sorted({*said.files, *said.shards} - set(blobs)):
                raise CorruptFile(f"{lost[0]} is missing", where=folder.url, hint="fetch it again")
        order = publishing_order(list(blobs))
        with (
            self.target.create_folder(
                self.name, size_hint=report.written_bytes, overwrite=self.overwrite
            ) as made,
            progress(f"copy {report.source}", report.written_bytes) as advance,
        ):
            for name in order:
                reader = folder.open(name)
                try:
                    with made.create(name, size_hint=reader.nbytes) as writer:
                        if said is not None and name in said.shards:
                            writer.label({"kind": "model", "fingerprint": str(said.fingerprint)})
                        check = self._check_of(reader, writer, name, said, own)
                        self._transfer(reader, writer, check, advance)
                        writer.commit()
                finally:
                    reader.close()
            self._refuse_changed()
            made.publish(order)
        return replace(report, server_side=self.pulled, checked=self.checked)

    def _check_of(
        self, reader: Reader, writer: Writer, name: str, said: Provenance | None, own: bytes
    ) -> Check | None:
        """What a file of a model is held against; `own` is the provenance's file itself."""
        if name == PROVENANCE:
            return Check([Span(len(own), digest_bytes(own).raw, name)], reader.name)
        if said is not None and name == PROVENANCE + SUFFIX:  # a proof of its own
            return Check([Span(reader.nbytes, None, name)], reader.name)
        return None if self._can_pull(reader, writer) else check_of_file(reader, name, said)

    # -- both --------------------------------------------------------------------------------

    def _can_pull(self, reader: Reader, writer: Writer) -> bool:
        return (
            reader.nbytes >= _PULLED_FROM_BYTES
            and isinstance(writer, Puller)
            and writer.can_pull(reader)
        )

    def _transfer(self, reader: Reader, writer: Writer, check: Check | None, advance: Advance) -> None:
        """Bring the bytes over, by the service itself or through here and past `check`."""
        self.checked = self.checked and check is not None
        if check is None and isinstance(writer, Puller) and self._can_pull(reader, writer):
            try:
                pull(reader, writer, block_bytes=writer.block_bytes, advance=advance)
            except PipelineError:
                pass  # it can't, or may not read there by itself, as behind a firewall: we do it
            else:
                self.pulled = True
                return
        pour(
            reader,
            writer,
            memory_bytes=self.resources.limits.memory_bytes,
            feed=check.feed if check else lambda data: None,
            advance=advance,
        )
        if check is not None:
            check.finish()

    def _refuse_changed(self) -> None:
        """Raise StorageError if the source is not any more what it was at the start."""
        if find_item(self.origin, self.item.name).files != self.item.files:
            raise changed(f"{self.origin.url}/{self.item.name}")
