"""page: what is known of a transfer, from reports and from the files themselves, as one web page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from pipeline.analysis.page.build import build_page
from pipeline.analysis.page.facts import Evidence
from pipeline.deltas.signing import Verifier
from pipeline.errors import UsageError
from pipeline.operations.gathering import gather
from pipeline.operations.outputs.folder import write_folder
from pipeline.operations.outputs.places import Place
from pipeline.operations.setup import Setup, Writing
from pipeline.settings import Settings

INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class PageReport:
    """What page did, or with `dry_run` would do.

    sources: what it was made from: each location with its kind. made_of: their digests, and the title.
    """

    output: str
    dry_run: bool
    sources: Sequence[str]
    files: Sequence[str]
    written_bytes: int
    made_of: Sequence[str | None] = ()


def page(
    reports: Sequence[str],
    output: str,
    *,
    title: str | None = None,
    key: str | None = None,
    **options: Unpack[Writing],
) -> PageReport:
    """Write the folder `output` with a page of what `reports` say, which loads nothing from anywhere.

    reports: locations of reports (of batch, evaluate, gate, and what other commands print as JSON), of
    deltas and releases, and of folders that analyze wrote; of deltas and releases only headers are read.
    title: in place of the release's name. key: a public key or certificate (PEM), by which signatures
    are checked; one that does not hold is an error. options: see `Writing`.
    Raises NotFound, CorruptFile, BadSignature, OutputExists and others of `pipeline.errors`.
    """
    if not reports:
        raise UsageError("a page needs a report", hint="name a batch's report, a delta or a release")
    setup = Setup.of(options)
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    content, evidence = page_content(reports, setup.settings, title=title, key=key)
    if not setup.dry_run:
        write_folder(place, {INDEX: content})
    return PageReport(
        output=place.location,
        dry_run=setup.dry_run,
        sources=[f"{each.location} ({each.kind})" for each in evidence.sources],
        files=[INDEX],
        written_bytes=len(content),
        made_of=[*(each.digest for each in evidence.sources), title],
    )


def page_content(
    reports: Sequence[str], settings: Settings, *, title: str | None, key: str | None
) -> tuple[bytes, Evidence]:
    """The page of what `reports` say, and what that is. Raises what `page` does."""
    verifier = Verifier.load(key) if key else None
    evidence = Evidence()
    for location in reports:
        gather(evidence, location, settings, verifier)
    return build_page(evidence, title=title), evidence
