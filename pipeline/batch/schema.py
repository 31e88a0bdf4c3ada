"""The published JSON Schemas: of configs, so that editors complete and explain them, and of reports.

    python -m pipeline.batch.schema      # writes configs/batch.schema.json and
    configs/report.schema.json

They are made from the very classes that read configs and write reports; what a field means is taken from
its class's docstring, where it says "name: what it is." The schema of configs accepts what the program
does, but for a variable that stands for one of a few words. What no schema can find, as references to no
step, the program finds.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.batch.config import Config
from pipeline.batch.report import BatchReport, StepResult
from pipeline.batch.terms import Model

FOLDER = Path("configs")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a config as it is written in a file."""
    schema = Config.model_json_schema(by_alias=True)
    for name, kind in schema["$defs"].items():
        _explain(kind, _model(name))
        if "run" in kind["properties"]:  # it tells which kind of step is meant
            kind["required"] = ["id", "run", *(key for key in kind["required"] if key != "id")]
    _explain(schema, Config)
    return {"$schema": _DIALECT, "title": "A batch config of Param∆ Pipeline", **schema}


def report_schema() -> dict[str, Any]:
    """The JSON Schema of a report as it is written to its place. Later versions may have more keys."""
    schema = TypeAdapter(BatchReport).json_schema(mode="serialization")
    schema["properties"] = {"ok": {"type": "boolean"}, **schema["properties"]}
    for kind, made_from in ((schema, BatchReport), (schema["$defs"]["StepResult"], StepResult)):
        _explain(kind, made_from)
        kind["required"] = list(kind["properties"])  # all are written, whatever they say
        for field in kind["properties"].values():
            field.pop("default", None)
    return {"$schema": _DIALECT, "title": "The report of a batch run of Param∆ Pipeline", **schema}


def write_schemas(folder: Path) -> None:
    """Write both schemas to `folder`."""
    for name, schema in (("batch", config_schema()), ("report", report_schema())):
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}.schema.json").write_text(text, encoding="utf-8")


def _model(name: str) -> type[Model]:
    """The class of a config's part, by its name."""
    waiting: list[type[Model]] = [Model]
    while waiting:
        found = waiting.pop()
        if found.__name__ == name:
            return found
        waiting += found.__subclasses__()
    raise LookupError(name)


def _explain(kind: dict[str, Any], made_from: type) -> None:
    """Say of each field what the docstrings of its class and of those above it say; leave out noise."""
    fields = kind["properties"]
    aliases = {
        name: field.alias or name for name, field in getattr(made_from, "model_fields", {}).items()
    }
    names = aliases or {name: name for name in fields}
    for parent in made_from.__mro__:
        for name, told in _said_of(names, parent.__doc__ or ""):
            fields[names[name]].setdefault("description", told)
    for field in (kind, *fields.values()):
        field.pop("title", None)
    for field in fields.values():
        if field.get("default") is None or isinstance(field["default"], dict):
            field.pop("default", None)
    summary, _, _ = inspect.cleandoc(made_from.__doc__ or "").partition("\n\n")
    kind["description"] = " ".join(summary.split())


def _said_of(names: Collection[str], docstring: str) -> Iterator[tuple[str, str]]:
    """The fields that a docstring explains, by "name: what it is." or "name, name: ...", and how."""
    text = " ".join(docstring.split())
    name = "|".join(map(re.escape, names))
    found = list(re.finditer(rf"(?:^|(?<=\. ))((?:(?:{name}), )*(?:{name})): ", text))
    for at, match in enumerate(found):
        end = found[at + 1].start() if at + 1 < len(found) else len(text)
        told = text[match.end() : end].strip()
        for each in match[1].split(", "):
            yield each, told[:1].upper() + told[1:]


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
