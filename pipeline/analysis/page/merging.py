"""The same thing told of twice, by a report and by its own manifest, made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

from pipeline.analysis.page.facts import Check, Delta, Evidence, Model, Release, Tensor

_Fact = TypeVar("_Fact", Delta, Release)


def merge(evidence: Evidence) -> Evidence:
    """`evidence` with each delta, release, check and verdict once. What was said first counts."""
    return replace(
        evidence,
        deltas=_each_once(evidence.deltas),
        releases=_each_once(evidence.releases),
        checks=_last_checks(evidence.checks),
        verdicts=[each for n, each in enumerate(evidence.verdicts) if each not in evidence.verdicts[:n]],
        published=list(dict.fromkeys(evidence.published)),
    )


def _each_once(facts: Sequence[_Fact]) -> list[_Fact]:
    """Those of one fingerprint joined; of one location, where one of them has no fingerprint."""
    found: list[_Fact] = []
    for fact in facts:
        same = (n for n, other in enumerate(found) if _is_same(other.model, fact.model))
        index = next(same, None)
        if index is None:
            found.append(fact)
        else:
            found[index] = _join(found[index], fact)
    return found


def _is_same(one: Model, other: Model) -> bool:
    if one.fingerprint and other.fingerprint:
        return one.fingerprint == other.fingerprint
    return one.location is not None and one.location == other.location


def _join(first: _Fact, second: _Fact) -> _Fact:
    """What `first` says, and where it says nothing, `second`."""
    new = {
        each.name: getattr(second, each.name)
        for each in fields(first)
        if _is_empty(getattr(first, each.name))
    }
    for name in ("model", "base", "post"):
        one, other = getattr(first, name, None), getattr(second, name, None)
        if one is not None and other is not None:
            new[name] = _join_models(one, other)
    joined = replace(first, **new)
    if isinstance(joined, Delta) and isinstance(second, Delta) and second.tensors:
        return replace(joined, tensors=_join_tensors(joined.tensors, second.tensors))
    return joined


def _join_models(one: Model, other: Model) -> Model:
    same = _is_same(one, other)
    return Model(
        one.location or other.location,
        one.fingerprint or (other.fingerprint if same else None),
        one.revision or (other.revision if same else None),
    )


def _join_tensors(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of `first`, with ranks and norms that only `second` has."""
    others = {tensor.name: tensor for tensor in second}
    joined = []
    for tensor in first:
        other = others.get(tensor.name, tensor)
        names = [each.name for each in fields(tensor) if getattr(tensor, each.name) is None]
        joined.append(replace(tensor, **{name: getattr(other, name) for name in names}))
    return joined


def _last_checks(checks: Sequence[Check]) -> list[Check]:
    """The last check of each kind of each thing."""
    found = {(check.model, check.base, check.post): check for check in checks}
    return list(found.values())


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, list | tuple) and not value)
