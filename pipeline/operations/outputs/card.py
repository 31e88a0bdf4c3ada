"""The cards of models and deltas: what they are made of, in the form that the Hub renders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from pipeline.deltas.manifest import Identity, Manifest
from pipeline.operations.addends.addend import Origin
from pipeline.operations.lineage.lines import lineage_lines
from pipeline.operations.outputs.fusion_card import exact, formula, fusion_lines
from pipeline.operations.outputs.markdown import as_cell, as_code
from pipeline.operations.outputs.report import ApplyReport
from pipeline.version import TOOL

CARD = "README.md"
_HUB_LOCATION = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/[\w.-]+\.gguf)?(?:@.*)?", re.ASCII)
_CITATION = """\
```bibtex
@misc{cao2025,
  title         = {Param$\\Delta$ for Direct Weight Mixing:
                   Post-Train Large Language Model at Zero Cost},
  author        = {Sheng Cao and Mingrui Wu and Karthik Prasad and Yuandong Tian and Zechun Liu},
  year          = {2025},
  eprint        = {2504.21023},
  archivePrefix = {arXiv}
}
```
"""


def model_card(
    report: ApplyReport, config: Mapping[str, Any] | None, origins: Sequence[tuple[Origin, float]]
) -> str:
    """The README.md of a result. Locations are shown as code, so that no name becomes markup.

    origins: where its deltas come from, with their scales.
    """
    lines = [
        "---",
        "library_name: transformers",
        "tags:",
        "- paramdelta",
        "- merge",
        "---",
        "",
        f"# {_title(config)} by Param∆",
        "",
        "The weights of a base model plus what post-training had changed in another version of it:",
        "",
        f"    result = {formula(report)}",
        "",
        *fusion_lines(report),
        "| part | location |",
        "|---|---|",
        f"| base | {as_cell(report.base)} |",
        *(row for n, (origin, _) in enumerate(origins, 1) for row in _rows(n, origin)),
        "",
        f"- case: {report.case}",
        f"- fingerprint of the result: `{report.fingerprint}`",
        f"- fingerprint of the base: `{report.base_fingerprint}`",
        *(line for n, (origin, _) in enumerate(origins, 1) for line in _fingerprints(n, origin)),
        f"- values that are NaN or infinite: {report.nonfinite}",
        *lineage_lines(report),
        f"- made by: {TOOL}",
        "",
        "Tokenizer, chat template and generation config come from the post-trained model. The quality "
        "of a transferred model is not implied by its arithmetic: measure it before you use it.",
        "",
    ]
    if report.carried:
        lines += ["Carried whole from the post-trained model (not float):", ""]
        lines += [f"- {as_code(name)}" for name in report.carried] + [""]
    if report.only_post:
        lines += ["Carried whole from the post-trained model (no base has them):", ""]
        lines += [f"- {as_code(name)}" for name in report.only_post] + [""]
    if report.config_table:
        lines += ["Where the configs do not agree:", ""]
        lines += ["| config.json | base | post | result | whose |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(as_cell, astuple(row)))} |" for row in report.config_table] + [""]
    if report.derived:
        lines += ["Not stored as they were read; exact is the sum of what was read:", ""]
        lines += [f"- {as_code(line)}" for line in report.derived] + [""]
    return "\n".join(lines) + "\n## Method\n\n" + _CITATION


def _rows(number: int, origin: Origin) -> Iterator[str]:
    """The lines that say where an addend lies; for a difference made on the way, where its models do."""
    if origin.location is not None:
        yield f"| ∆{number} | {as_cell(origin.location)} |"
        return
    for part, who in _models(origin):
        revision = f" at {as_cell(who.revision)}" if who.revision else ""
        yield f"| {part} of ∆{number} | {as_cell(who.location)}{revision} |"


def _fingerprints(number: int, origin: Origin) -> Iterator[str]:
    """The lines that tell the models of a difference apart from later ones in the same places."""
    if origin.location is None:
        for part, who in _models(origin):
            yield f"- fingerprint of the {part} of ∆{number}: `{who.known_by}`"


def _models(origin: Origin) -> list[tuple[str, Identity]]:
    """What an addend was made of, as far as it is known."""
    parts = (("post", origin.post), ("base", origin.base))
    return [(part, who) for part, who in parts if who is not None]


def delta_card(name: str, manifest: Manifest, *, repo: str) -> str:
    """The README.md of a repository with the delta called `name`. `repo`: the repository."""
    parts = [("base", manifest.base), ("post", manifest.post)]
    known = [(part, who) for part, who in parts if who is not None]
    base_model = _hub_id(manifest.base)
    lines = [
        "---",
        *(["base_model:", f"- {base_model}"] if base_model else []),
        "tags:",
        "- paramdelta",
        "- delta",
        "---",
        "",
        f"# {as_code(name)}",
        "",
        "What post-training changed in a model: the difference of two checkpoints, to be added to "
        "another base.",
        "",
        "| part | location | revision | fingerprint |",
        "|---|---|---|---|",
        *(
            f"| {part} | {as_cell(who.location)} | {as_cell(who.revision or '-')} | `{who.known_by}` |"
            for part, who in known
        ),
        *(
            f"| {exact(each.scale)} × | {as_cell(each.location)} | `-` | `{each.fingerprint}` |"
            for each in manifest.ancestors
        ),
        "",
        f"- fingerprint of the delta: `{manifest.fingerprint}`",
        *(f"- {part}: {as_code(who.derived)}" for part, who in known if who.derived is not None),
        f"- tensors: {len(manifest.tensors)}, packed by `{manifest.codec}`",
        f"- made by: {manifest.tool if manifest.tool.isprintable() else TOOL}",
        "",
        "On its own base it gives the post-trained model back bit for bit; to another base it is added "
        "in float32 and rounded once:",
        "",
        f"    hf download {repo} {name} --local-dir .",
        f"    python cli.py apply --base org/new-base --delta ./{name} --output ./result",
        "",
    ]
    return "\n".join(lines) + "\n## Method\n\n" + _CITATION


def _hub_id(who: Identity | None) -> str | None:
    """The repository of a checkpoint from the Hub."""
    found = _HUB_LOCATION.fullmatch(who.location) if who else None
    return found[1] if found else None


def _title(config: Mapping[str, Any] | None) -> str:
    architectures = (config or {}).get("architectures")
    named = isinstance(architectures, list) and architectures and str(architectures[0]).isidentifier()
    return str(architectures[0]) if named and architectures else "A model"
