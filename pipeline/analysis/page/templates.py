"""Templates filled with what others wrote: escaped, bounded, and with no way to run or to load anything.

Every value that a template prints goes through one function, which cuts it, takes out secrets and shows
what is not for reading (marks of direction among it) by its code; then Jinja escapes it. The page has
one style sheet and one script, both in it, and a Content-Security-Policy that allows these two by their
digests, pictures that are in the page, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.analysis.page.facts import Plot
from pipeline.analysis.page.values import as_text
from pipeline.errors import printable
from pipeline.quality.report import Measurement
from pipeline.redaction import redact
from pipeline.units import format_bytes
from pipeline.version import TOOL

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent / "templates"
_LINK = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(?:/[\w.@%+~/-]*)?", re.ASCII)
_NONE = "–"


def fill(template: str, **values: Any) -> bytes:
    """The page that `template` makes of `values`, in UTF-8."""
    environment = _environment()
    style, script = (_asset(name) for name in ("style.css", "table.js"))
    policy = (
        f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template).render(
        style=_verbatim(style), script=_verbatim(script), policy=policy, tool=TOOL, **values
    )
    return page.encode(errors="backslashreplace")


@cache
def _environment() -> Environment:
    """Our templates, ready to be filled: compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": lambda value: None if value is None else format_bytes(value),
        "figure": figure,
        "short": lambda value: None if value is None else value[:12],
        "whole": lambda value: None if value is None else f"{value:,}",
        "share": lambda value: None if value is None else share(value),
        "place": place_name,
        "link": lambda value: value if value and _LINK.fullmatch(value) else None,
        "picture": _picture,
        "clip": clip,
        "measured": measured,
        "breakable": _breakable,
    }
    return environment


def figure(value: float | None) -> str | None:
    """A number with four digits that count."""
    if value is None or not math.isfinite(value):
        return None
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.4g}".replace("-", "−")


def measured(value: Measurement, factor: float = 1) -> tuple[str | None, str | None]:
    """A figure and its standard error, with no more digits than the error leaves it."""
    number, error = value.value * factor, (value.standard_error or 0) * factor
    if value.standard_error is None or not math.isfinite(error) or not math.isfinite(number):
        return figure(number) if factor == 1 or not math.isfinite(number) else f"{number:.1f}", None
    if factor != 1:
        return f"{number:.1f}", f"{error:.1f}"
    if not 1e-6 < error < 1e6:
        return figure(number), figure(error)
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{number:.{digits}f}".replace("-", "−"), f"{error:.{digits}f}"


def share(value: float) -> str:
    """A share in percent, with no more digits than it is worth; never 100 % of what is not all."""
    if 0 < value < 1e-4:
        return "< 0.01 %"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %" if abs(value) >= 0.01 or not value else f"{100 * value:.2g} %"


def place_name(location: str | None) -> str | None:
    """The last part of a location, by which people know a thing."""
    text = (location or "").split("?")[0].rstrip("/")
    return text.rpartition("/")[2].removesuffix(".safetensors") or None


def clip(text: str | None, size: int) -> str:
    """`text` in at most `size` characters, its middle left out: what differs is mostly at the end."""
    shown = printable(text or _NONE)
    if len(shown) <= size:
        return shown
    head = (size - 1) // 2
    return f"{shown[:head]}…{shown[head + 1 - size :]}"


def _shown(value: Any) -> Any:
    """What stands in the page for a value."""
    if value is None:
        return _NONE
    return printable(redact(as_text(value) or "")) if type(value) is str else value


def _picture(plot: Plot) -> str:
    """A plot as an address that has all of it: as an image it can't run or load anything."""
    return f"data:image/{plot.kind};base64,{base64.b64encode(plot.content).decode()}"


def _breakable(name: str) -> Any:
    """A tensor's name, with places where a line may end."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^._]*[._]?", str(_shown(name))))


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _allowed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _verbatim(text: str) -> Any:
    """Our own style or script, as it is."""
    from markupsafe import Markup

    return Markup(text)  # not of anybody else: of this folder
