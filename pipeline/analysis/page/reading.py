"""Reports as facts: each kind is told by its `format` or its keys, and taken by a function of its own.

Whatever is not of the kind that it should be is left out, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.analysis.page.facts import (
    Check,
    Condition,
    Delta,
    Evidence,
    Model,
    Pair,
    Part,
    Release,
    Run,
    Signature,
    Step,
    Tensor,
    Verdict,
)
from pipeline.analysis.page.values import (
    as_count,
    as_flag,
    as_list,
    as_mapping,
    as_mappings,
    as_number,
    as_text,
    as_texts,
)
from pipeline.quality.report import FORMAT as EVALUATION
from pipeline.quality.report import Evaluation

GATE = "paramdelta-gate/"
ANALYSIS = "paramdelta-analysis/"


def take(evidence: Evidence, report: object, *, where: str) -> str | None:
    """Add what `report`, a value read from JSON, says; returns its kind, None if it is none of ours.

    Raises CorruptFile for an evaluation that is not one.
    """
    content = as_mapping(report)
    form = as_text(content.get("format")) or ""
    if form == EVALUATION:
        evidence.evaluations.append(Evaluation.from_json(json.dumps(content), where=where))
        return "evaluation"
    if form.startswith(GATE):
        evidence.verdicts.append(verdict_of(content))
        return "gate verdict"
    if form.startswith(ANALYSIS):
        _take_analysis(evidence, content)
        return "analysis"
    if isinstance(content.get("steps"), list) and "config_digest" in content:
        _take_run(evidence, content, where)
        return "batch report"
    return _take_operation(evidence, content)


def _take_operation(evidence: Evidence, content: Mapping[str, Any]) -> str | None:
    """A report of compute, combine, apply or verify."""
    if content.get("dry_run") is True:
        return "dry run"  # nothing was made
    if {"output", "base", "post"} <= content.keys():
        evidence.deltas.append(_computed(content))
        return "report of compute"
    if {"output", "base", "deltas", "case"} <= content.keys():
        evidence.releases.append(_applied(content))
        return "report of apply"
    if {"location", "kind", "read_bytes"} <= content.keys():
        evidence.checks.append(_check(content))
        return "report of verify"
    if {"source", "output", "gates", "fingerprint"} <= content.keys():
        model = Model(as_text(content["output"]), as_text(content["fingerprint"]))
        evidence.published.append(model)
        return "report of publish"
    if {"output", "deltas", "fingerprint"} <= content.keys():
        evidence.deltas.append(_combined(content))
        return "report of combine"
    if {"version", "shards", "tensors", "fingerprint"} <= content.keys():
        where = as_text(content.get("location"))
        evidence.releases.append(release_of(content, location=where, signature=None))
        return "provenance"
    return None


def _take_run(evidence: Evidence, content: Mapping[str, Any], where: str) -> None:
    """A batch: its steps, and the reports in them. A step that was up to date has one, too."""
    steps = []
    for each in as_mappings(content["steps"]):
        note = as_text(each.get("error")) or as_text(each.get("reason"))
        status = as_text(each.get("status")) or "?"
        name, run = as_text(each.get("id")) or "?", as_text(each.get("run")) or "?"
        steps.append(Step(name, run, status, as_number(each.get("seconds")), note))
        if status in ("done", "fresh", "refused", "failed"):
            take(evidence, each.get("result"), where=where)
    evidence.runs.append(
        Run(
            config=as_text(content.get("config")),
            started=as_text(content.get("started")),
            seconds=as_number(content.get("seconds")),
            ok=content.get("ok") is True,
            steps=steps,
        )
    )


def _take_analysis(evidence: Evidence, content: Mapping[str, Any]) -> None:
    """What analyze found: each delta with its tensors' figures, and how each pair agrees."""
    names = []
    for each in as_mappings(content.get("deltas")):
        model = Model(as_text(each.get("location")), as_text(each.get("fingerprint")))
        names.append(model.location or "?")
        tensors = [_analysed(tensor) for tensor in as_mappings(each.get("tensors"))]
        base = model_of(each.get("base"), each.get("base_fingerprint"))
        evidence.deltas.append(
            Delta(
                model=model,
                base=base,
                post=model_of(each.get("post")),
                tensors=tensors,
                count=len(tensors),
                changed=_sum([tensor.changed for tensor in tensors]),
                elements=as_count(each.get("elements")),
                relative=as_number(as_mapping(each.get("total")).get("relative")),
            )
        )
    for each in as_mappings(content.get("pairs")):
        first, second = as_count(each.get("first")), as_count(each.get("second"))
        if first is None or second is None or max(first, second) >= len(names):
            continue
        total = as_mapping(each.get("total"))
        figures = (as_number(total.get(name)) for name in ("cosine", "both", "same_sign"))
        evidence.pairs.append(Pair(names[first], names[second], *figures))


def _sum(counts: Sequence[int | None]) -> int | None:
    """The sum, if all are known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _analysed(content: Mapping[str, Any]) -> Tensor:
    """A tensor as analyze measured it."""
    shape = tuple(size for each in as_list(content.get("shape")) if (size := as_count(each)) is not None)
    share, spectrum = as_number(content.get("changed")), as_mapping(content.get("spectrum"))
    tensor = Tensor(
        name=as_text(content.get("name")) or "?",
        dtype=as_text(content.get("dtype")) or "?",
        shape=shape,
        delta_l2=as_number(content.get("l2")),
        base_l2=as_number(content.get("base_l2")),
        delta_max=as_number(content.get("max")),
        rank=as_number(spectrum.get("effective_rank")),
    )
    if share is None or not 0 <= share <= 1:
        return tensor
    return replace(tensor, changed=round(share * tensor.elements))


def model_of(value: object, fingerprint: object = None) -> Model | None:
    """A checkpoint as reports name it: by its location, or with its revision and fingerprint."""
    if isinstance(value, str):
        return Model(as_text(value), as_text(fingerprint))
    content = as_mapping(value)
    if not content:
        return None
    return Model(
        as_text(content.get("location")),
        as_text(content.get("fingerprint")),
        as_text(content.get("revision")),
    )


def _computed(content: Mapping[str, Any]) -> Delta:
    return Delta(
        model=Model(as_text(content["output"]), as_text(content.get("fingerprint"))),
        base=model_of(content["base"], content.get("base_fingerprint")),
        post=model_of(content["post"], content.get("post_fingerprint")),
        count=as_count(content.get("tensors")),
        elements=as_count(content.get("elements")),
        changed=as_count(content.get("changed")),
        remainders=as_count(content.get("remainders")),
        exceptions=as_count(content.get("exceptions")),
        nbytes=as_count(content.get("written_bytes")),
        carried=as_texts(content.get("carried")),
        pushed=as_text(content.get("pushed")),
    )


def _combined(content: Mapping[str, Any]) -> Delta:
    return Delta(
        model=Model(as_text(content["output"]), as_text(content["fingerprint"])),
        parts=_scaled(content["deltas"]),
        count=as_count(content.get("tensors")),
        nbytes=as_count(content.get("written_bytes")),
    )


def _applied(content: Mapping[str, Any]) -> Release:
    return Release(
        model=Model(as_text(content["output"]), as_text(content.get("fingerprint"))),
        base=model_of(content["base"], content.get("base_fingerprint")),
        parts=_identified(_scaled(content["deltas"]), content.get("addend_fingerprints")),
        nbytes=as_count(content.get("written_bytes")),
        pushed=as_text(content.get("pushed")),
        **_counted(content),
    )


def _config_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A key of the configs, its values, and whose counts; nothing for what is no text."""
    return tuple(as_text(row.get(part)) or "" for part in ("key", "base", "post", "result", "whose"))


def _counted(content: Mapping[str, Any]) -> dict[str, Any]:
    """What reports of apply and provenances say in the same words."""
    is_count = isinstance(content.get("tensors"), int)
    return {
        "case": as_text(content.get("case")),
        "count": as_count(content["tensors"]) if is_count else len(as_mapping(content.get("tensors"))),
        "elements": as_count(content.get("elements")),
        "nonfinite": as_count(content.get("nonfinite")),
        "base_distance": as_number(content.get("base_distance")),
        "carried": as_texts(content.get("carried")),
        "config_rows": tuple(map(_config_row, as_mappings(content.get("config_table")))),
    }


def release_of(
    content: Mapping[str, Any],
    *,
    location: str | None,
    signature: Signature | None,
    nbytes: int | None = None,
) -> Release:
    """The release whose provenance, paramdelta.json, says `content`."""
    parts = []
    for each in as_mappings(content.get("deltas")):
        scale = as_number(each.get("scale"))
        delta = Model(as_text(each.get("location")), as_text(each.get("fingerprint")))
        base, post = model_of(each.get("base")), model_of(each.get("post"))
        parts.append(Part(1.0 if scale is None else scale, delta, base, post))
    return Release(
        model=Model(location, as_text(content.get("fingerprint"))),
        base=model_of(content.get("base")),
        parts=parts,
        nbytes=nbytes,
        signature=signature,
        tool=as_text(content.get("tool")),
        **_counted(content),
    )


def _scaled(value: object) -> list[Part]:
    """Deltas with their scales, as reports write them: lists of two, or objects."""
    found = []
    for each in as_list(value):
        if isinstance(each, list | tuple) and len(each) == 2:
            location, scale = as_text(each[0]), as_number(each[1])
        else:
            said = as_mapping(each)
            location, scale = as_text(said.get("location")), as_number(said.get("scale"))
        found.append(Part(1.0 if scale is None else scale, Model(location)))
    return found


def _identified(parts: list[Part], fingerprints: object) -> list[Part]:
    """The parts with the fingerprints of those that are deltas, if they are said of just these."""
    found = [as_text(as_mapping(each).get("delta")) for each in as_list(fingerprints)]
    if len(found) != len(parts):
        return parts
    pairs = zip(parts, found, strict=True)
    return [replace(part, delta=replace(part.delta, fingerprint=digest)) for part, digest in pairs]


def _check(content: Mapping[str, Any]) -> Check:
    return Check(
        model=Model(as_text(content["location"]), as_text(content.get("fingerprint"))),
        kind=as_text(content["kind"]) or "?",
        count=as_count(content.get("tensors")),
        read_bytes=as_count(content["read_bytes"]),
        base=as_text(content.get("base")),
        post=as_text(content.get("post")),
        restores_post=as_flag(content.get("restores_post")),
        signed_by=as_text(content.get("signed_by")),
        unlisted=as_texts(content.get("unlisted")),
    )


def verdict_of(content: Mapping[str, Any]) -> Verdict:
    """What a gate said. What does not say that it passed has not."""
    conditions = [
        Condition(
            text=as_text(each.get("condition")) or "?",
            passed=each.get("passed") is True,
            subject=as_text(each.get("comparison")),
            comparison=as_text(each.get("operator")),
            left=as_number(each.get("left")),
            right=as_number(each.get("right")),
            error=as_number(each.get("standard_error")),
        )
        for each in as_mappings(content.get("judgements"))
    ]
    return Verdict(
        model=Model(as_text(content.get("model")), as_text(content.get("fingerprint"))),
        passed=bool(conditions) and all(each.passed for each in conditions),
        conditions=conditions,
        evaluation=as_text(content.get("report")),
    )
