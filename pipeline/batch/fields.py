"""What single values of a batch config may be: ids, locations, sizes, names of formats.

Every check says what is wrong as a `ValueError`, which pydantic collects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from pipeline.batch.references import MARK, published_kind
from pipeline.errors import UsageError
from pipeline.storage.locations import (
    Location,
    parse_delta,
    parse_model,
    parse_output_model,
    parse_store,
    split_scale,
)
from pipeline.units import parse_bytes

DTypeName = Literal["auto", "bfloat16", "float16", "float32", "float64"]
DeviceName = Literal["auto", "cpu", "cuda"]
CodecName = Literal["rans", "none"]
TierName = Literal["hot", "cool", "cold"]
HubCacheName = Literal["auto", "on", "off"]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _check_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError(
            "should be letters, digits, '.', '_' and '-', at most 100, and begin with a letter or digit"
        )
    return text


def _checked(parse: Callable[[str], Location | None], *, is_output: bool) -> Callable[[str], str]:
    """A validator: `parse` must accept the text, which stays as it is."""

    def check(text: str) -> str:
        if text.startswith(MARK):
            if is_output:
                raise ValueError("is a reference, but an output is a location of its own")
            return text  # whether there is such a step is looked at once all of them are known
        try:
            parse(text)
        except UsageError as error:
            raise ValueError(str(error)) from error
        except OSError as error:  # a name that is too long to look for
            raise ValueError(f"is not a location: {error.strerror}") from error
        return text

    return check


def _parse_target(text: str) -> None:
    """A delta or a model, whichever it is."""
    try:
        parse_delta(text)
    except UsageError:
        parse_model(text)


def _parse_released(text: str) -> None:
    """A delta or a model to be written, as its name says."""
    if published_kind(text) == "delta":
        parse_delta(text)
    else:
        parse_output_model(text)


def _parse_shown(text: str) -> None:
    """A report, a delta, or a folder: what a page can be made from."""
    try:
        parse_output_model(text)
    except UsageError:
        parse_delta(text)


def _check_scaled_report(text: str) -> str:
    """A report, with the scale of the delta that was measured behind it."""
    location, scale = split_scale(text)
    _checked(parse_output_model, is_output=False)(location)
    try:
        float(scale or 1)
    except ValueError:
        raise ValueError(f"{scale!r} is not a scale: write REPORT=0.5") from None
    return text


def _check_plots(text: str) -> str:
    """Formats of plots, as analyze reads them."""
    if text != "none" and not {word.strip() for word in text.split(",")} <= {"svg", "png"}:
        raise ValueError("should be svg, png, svg,png or none")
    return text


def _check_template(text: str) -> str:
    """An output with places to fill in; that it is a location then is looked at once they are."""
    left = re.sub(r"\{(delta|base|version)\}", "x", text)
    if "{" in left or "}" in left:
        raise ValueError("has braces that are none of {delta}, {base} and {version}")
    return text


def _check_repo(text: str) -> str:
    if not _REPO.fullmatch(text):
        raise ValueError("is not a repository of the Hub: write org/name")
    return text


def _check_not_empty(value: object) -> object:
    """A list with at least one item. Asked of the input: pydantic counts only items that are right."""
    if isinstance(value, list | tuple) and not value:
        raise ValueError("should not be empty")
    return value


def _check_size(value: object) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('should be a size, as "512MiB", or a number of bytes')
    try:
        parse_bytes(value)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return value


def _check_condition(text: str) -> str:
    """What must hold of a model, in the language of gates."""
    from pipeline.quality.conditions import parse_condition

    try:
        parse_condition(text)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return text


Id = Annotated[str, AfterValidator(_check_id)]
ModelIn = Annotated[str, AfterValidator(_checked(parse_model, is_output=False))]
DeltaIn = Annotated[str, AfterValidator(_checked(parse_delta, is_output=False))]
ModelOut = Annotated[str, AfterValidator(_checked(parse_output_model, is_output=True))]
DeltaOut = Annotated[str, AfterValidator(_checked(parse_delta, is_output=True))]
Target = Annotated[str, AfterValidator(_checked(_parse_target, is_output=False))]
Released = Annotated[str, AfterValidator(_checked(_parse_released, is_output=True))]
Template = Annotated[str, AfterValidator(_check_template)]
FilePath = Annotated[str, Field(min_length=1)]
Repo = Annotated[str, AfterValidator(_check_repo)]
StorePlace = Annotated[str, AfterValidator(_checked(parse_store, is_output=True))]
ReportIn = Annotated[str, AfterValidator(_checked(parse_output_model, is_output=False))]
ConditionText = Annotated[str, AfterValidator(_check_condition)]
ReportPlace = ModelOut  # local unless it says otherwise, as a model to be written is
ShownIn = Annotated[str, AfterValidator(_checked(_parse_shown, is_output=False))]
ScaledReport = Annotated[str, AfterValidator(_check_scaled_report)]
PlotsText = Annotated[str, AfterValidator(_check_plots)]
Size = Annotated[str | int, PlainValidator(_check_size, json_schema_input_type=str | int)]
NotEmpty = BeforeValidator(_check_not_empty)
Scale = Annotated[float, Field(allow_inf_nan=False)]
