"""publish: a finished delta or model under its final name, once its gates have let it pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.checkpoints.files import read_file
from pipeline.deltas.delta import open_delta
from pipeline.errors import CorruptFile, NotACheckpoint, NotFound, Refused, UsageError
from pipeline.operations.arguments import names_a_delta
from pipeline.operations.gate import read_verdict
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.setup import DEFAULT_MEMORY
from pipeline.operations.storing.copying import CopyReport, copy
from pipeline.operations.storing.shelf import find_item
from pipeline.progress import Progressing, silent
from pipeline.quality.verdict import Verdict
from pipeline.settings import Settings
from pipeline.storage.locations import (
    Location,
    Scheme,
    parse_delta,
    parse_model,
    parse_output_model,
    parse_store,
)
from pipeline.storage.opening import open_parent


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What publish did, or with `dry_run` would do.

    fingerprint: of the delta or model. gates: where the verdicts lie that it has passed. download_bytes,
    upload_bytes: none, where the account copies by itself. server_side, checked, signed: see `copy`.
    """

    source: str
    output: str
    kind: str
    fingerprint: str
    gates: Sequence[str]
    dry_run: bool
    files: int
    read_bytes: int
    written_bytes: int
    download_bytes: int
    upload_bytes: int
    signed: bool
    server_side: bool = False
    checked: bool = False


def publish(
    source: str,
    output: str,
    *,
    gates: Sequence[str],
    require: Sequence[str] = (),
    store: str | None = None,
    memory: str | int = DEFAULT_MEMORY,
    tier: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> PublishReport:
    """Copy the delta or the model folder at `source` to `output`, if every verdict of `gates` lets it.

    A verdict must be of just this model, by fingerprint; for a delta, of a model that was made by it.
    require: conditions that the verdicts together must have judged by, whatever else they have.
    The copy appears whole or not at all; see `copy` for the rest.
    Raises Refused if a gate did not let it pass, or judged something else; UsageError without a gate;
    NotACheckpoint for a model that apply did not write; and others of `pipeline.errors`.
    """
    settings = Settings.load(store=store, tier=tier)
    kind, fingerprint = check_gates(source, gates, require, settings)
    made: CopyReport = copy(
        plain(source, kind),
        plain(output, kind),
        store=store,
        memory=memory,
        tier=tier,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=progress,
    )
    return PublishReport(
        source=made.source,
        output=made.output,
        kind=kind,
        fingerprint=fingerprint,
        gates=tuple(str(parse_output_model(gate)) for gate in gates),
        dry_run=dry_run,
        files=made.files,
        **_sizes(source, output, kind, settings, made.written_bytes),
        signed=made.signed,
        server_side=made.server_side,
        checked=made.checked,
    )


def foresee(source: str, output: str, store: str | None, nbytes: int | None) -> dict[str, int]:
    """What `publish` will move once its gates let it. nbytes: of the source, None if it is there to see.

    Raises NotFound, and others of `pipeline.errors`.
    """
    settings = Settings.load(store=store)
    kind = "delta" if names_a_delta(source) else "model"
    if nbytes is None:
        parent, name = open_parent(parse_delta(plain(source, kind)), settings)
        nbytes = find_item(parent, name).nbytes
    return _sizes(source, output, kind, settings, nbytes)


def _sizes(source: str, output: str, kind: str, settings: Settings, nbytes: int) -> dict[str, int]:
    """What a copy of `nbytes` reads and writes, and how much of it passes through this machine."""
    places = [_place(text, kind, settings) for text in (source, output)]
    remote = [place.scheme is Scheme.AZURE for place in places]
    by_itself = all(remote) and places[0].account_url == places[1].account_url
    moved = 0 if by_itself else nbytes
    return {
        "read_bytes": nbytes,
        "written_bytes": nbytes,
        "download_bytes": moved * remote[0],
        "upload_bytes": moved * remote[1],
    }


def check_gates(
    source: str, gates: Sequence[str], require: Sequence[str], settings: Settings
) -> tuple[str, str]:
    """Whether `source` is a delta or a model, and its fingerprint, if its gates let it pass.

    Raises what `publish` does.
    """
    if not gates:
        raise UsageError(
            "nothing is published without a gate", hint="name a verdict that gate has written"
        )
    kind = "delta" if names_a_delta(source) else "model"
    fingerprint = _fingerprint_of(source, kind, settings)
    judged_by: set[str] = set()
    for location in gates:
        verdict = read_verdict(location, settings)
        shown = str(parse_output_model(location))
        if not verdict.passed:
            raise Refused("its gate refused: " + "; ".join(verdict.refusals), where=shown)
        judged_by.update(verdict.require)
        judged = verdict.fingerprint
        if kind == "model" and judged != fingerprint:
            raise Refused(
                f"its gate judged another model: {judged[:12]}…, not {fingerprint[:12]}…",
                where=shown,
                hint="evaluate and judge the very model that is to be published",
            )
        if kind == "delta" and fingerprint not in _made_by(verdict, settings):
            raise Refused(
                "its gate judged a model that is not known to be made by this delta",
                where=shown,
                hint="judge a model that apply has made by it, and that is still there",
            )
    if missing := [text for text in require if text not in judged_by]:
        what = f"its gates have judged by other conditions: none by {missing[0]!r}"
        raise Refused(
            what, where=source.partition("?")[0], hint="judge it again, by all that is required"
        )
    return kind, fingerprint


def plain(text: str, kind: str) -> str:
    """The location as `copy` reads it: a model's is local unless it says otherwise."""
    if kind == "delta":
        return text
    location = parse_output_model(text)
    if location.scheme is Scheme.LOCAL and not location.path.startswith(("/", "./", "../")):
        return f"./{location.path}"
    return text


def _place(text: str, kind: str, settings: Settings) -> Location:
    """Where it lies, the store being one place or the other."""
    location = parse_delta(plain(text, kind))
    return parse_store(settings.store) if location.scheme is Scheme.STORE else location


def _fingerprint_of(source: str, kind: str, settings: Settings) -> str:
    if kind == "delta":
        with open_delta(source, settings=settings) as delta:
            return str(delta.manifest.fingerprint)
    said = provenance_at(parse_output_model(source), settings)
    if said is None:
        raise NotACheckpoint(
            "is no model that apply wrote",
            where=source.partition("?")[0],
            hint=f"it has no {PROVENANCE}",
        )
    return str(said.fingerprint)


def provenance_at(location: Location, settings: Settings) -> Provenance | None:
    """What the model folder at `location` says of itself; None if it says nothing."""
    store, name = open_parent(location, settings)
    folder = store.folder(name)
    if folder.stat(PROVENANCE) is None:
        return None
    return Provenance.parse(read_file(folder, PROVENANCE), where=f"{folder.url}/{PROVENANCE}")


def _made_by(verdict: Verdict, settings: Settings) -> set[str]:
    """The fingerprints of the deltas that the judged model was made by, as far as that can be known."""
    try:
        location = parse_model(verdict.model)
        said = None if location.scheme is Scheme.HUB else provenance_at(location, settings)
    except (UsageError, NotFound, CorruptFile):
        return set()
    if said is None or str(said.fingerprint) != verdict.fingerprint:
        return set()
    try:
        return {str(entry["fingerprint"]) for entry in said.origin["deltas"] if "fingerprint" in entry}
    except (KeyError, TypeError):
        return set()
