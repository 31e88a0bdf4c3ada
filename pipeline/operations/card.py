"""The model card of a result: what it is made of, in the form that the Hub renders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.version import TOOL

if TYPE_CHECKING:
    from pipeline.operations.apply import ApplyReport

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


def model_card(report: ApplyReport, config: Mapping[str, Any] | None) -> str:
    """The README.md of a result. Locations are shown as code, so that no name becomes markup."""
    terms = " + ".join(f"{scale:g} · ∆{number}" for number, (_, scale) in enumerate(report.deltas, 1))
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
        f"    result = base + {terms}",
        "",
        "| part | location |",
        "|---|---|",
        f"| base | {_code(report.base)} |",
        *(f"| ∆{n} | {_code(name)} |" for n, (name, _) in enumerate(report.deltas, 1)),
        "",
        f"- case: {report.case}",
        f"- fingerprint of the result: `{report.fingerprint}`",
        f"- fingerprint of the base: `{report.base_fingerprint}`",
        f"- values that are NaN or infinite: {report.nonfinite}",
        f"- made by: {TOOL}",
        "",
        "Tokenizer, chat template and generation config come from the post-trained model. The quality "
        "of a transferred model is not implied by its arithmetic: measure it before you use it.",
        "",
    ]
    if report.carried:
        lines += ["Carried whole from the post-trained model (not float):", ""]
        lines += [f"- {_code(name)}" for name in report.carried] + [""]
    if report.config_differences:
        lines += ["Configs differ; the base's value counts:", ""]
        lines += [f"- {_code(line)}" for line in report.config_differences] + [""]
    return "\n".join(lines) + "\n## Method\n\n" + _CITATION


def _title(config: Mapping[str, Any] | None) -> str:
    architectures = (config or {}).get("architectures")
    named = isinstance(architectures, list) and architectures and str(architectures[0]).isidentifier()
    return str(architectures[0]) if named and architectures else "A model"


def _code(text: str) -> str:
    """`text` as inline code that cannot break out of a table cell."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"
