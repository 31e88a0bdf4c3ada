"""Where an evaluation's report goes, and the items beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipeline.operations.evaluating.measuring import Results
from pipeline.quality.divergence import DocumentDivergence
from pipeline.quality.items import to_line
from pipeline.quality.report import Evaluation, Role
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.errors import exists
from pipeline.storage.locations import parse_output_model
from pipeline.storage.opening import open_parent


@dataclass(frozen=True, slots=True)
class ReportPlace:
    """The place of a report. Beside NAME.json lie NAME.ROLE.items.jsonl, one for each model."""

    store: Store
    name: str
    location: str
    overwrite: bool

    @classmethod
    def at(cls, location: str, settings: Settings, *, overwrite: bool) -> Self:
        """The place that `location` names. Raises UsageError."""
        where = parse_output_model(location)
        return cls(*open_parent(where, settings), str(where), overwrite)

    def items(self, roles: Iterable[Role]) -> dict[Role, str]:
        """The names of the files of items, which lie in the report's folder."""
        stem = self.name.rpartition("/")[2].removesuffix(".json")
        return {role: f"{stem}.{role}.items.jsonl" for role in roles}

    def refuse_taken(self, items: Mapping[Role, str]) -> None:
        """Raises OutputExists if the report or a file of items is there, and is not to be replaced."""
        for name in (self.name, *map(self._beside, items.values())):
            if not self.overwrite and self.store.stat(name):
                raise exists(f"{self.store.url}/{name}")

    def publish(self, report: Evaluation, results: Mapping[Role, Results]) -> None:
        """Write the items that the report names, and then the report: where it is, all is."""
        for role, name in report.items.items():
            self._put(self._beside(name), items_text(results[role]))
        self._put(self.name, report.to_json())

    def _beside(self, name: str) -> str:
        folder, slash, _ = self.name.rpartition("/")
        return f"{folder}{slash}{name}"

    def _put(self, name: str, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        with self.store.create(name, size_hint=len(data), overwrite=self.overwrite) as writer:
            writer.write(0, data)
            writer.commit()


def items_text(results: Results) -> str:
    """The text of a file of items: a line of JSON for each answer, document and comparison."""
    records = [*map(asdict, results.answers), *map(asdict, results.documents)]
    records += map(_mean, results.divergences)
    return "".join(f"{to_line(record)}\n" for record in records)


def _mean(of: DocumentDivergence) -> dict[str, Any]:
    """A document's own figures: those of its every position would fill the file."""
    count = len(of.kl)
    kl = float(of.kl.mean()) if count else None
    shares = {"kl": kl, "same_top": of.same_top / count if count else None}
    return {"data": of.data, "document": of.document, "tokens": of.tokens, "compared": count, **shares}
