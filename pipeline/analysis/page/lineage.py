"""What came of what: bases, deltas, releases and gates as a graph, nodes that are the same made one.

Things are told apart by their fingerprints; by their locations only where no fingerprint is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.analysis.page.facts import Delta, Evidence, Model, Part, Release

Kind = Literal["model", "delta", "release", "gate"]
MAX_NODES = 80


@dataclass(frozen=True, slots=True)
class Node:
    """One thing. key: its identity in the graph. state: of a gate, passed or refused."""

    key: str
    kind: Kind
    model: Model
    note: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """That something was made of something. label: its scale, where it is not 1."""

    source: str
    target: str
    label: str = ""


@dataclass
class Lineage:
    """Nodes by key, and what leads from one to the other. left_out: nodes that were too many."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)
    left_out: int = 0

    def add(self, node: Node) -> str:
        """Put `node` in, or tell more of one that is there; returns its key."""
        old = self.nodes.get(node.key)
        if old is None and len(self.nodes) >= MAX_NODES:
            self.left_out += 1
        elif old is None or (old.kind == "model" and node.kind != "model"):
            self.nodes[node.key] = node
        return node.key

    def link(self, source: str, target: str, label: str = "") -> None:
        """Put an edge in, if both ends are there and it closes no circle."""
        known = source in self.nodes and target in self.nodes
        if known and source != target and not self._leads(target, source):
            self.edges.setdefault((source, target), Edge(source, target, label))

    def _leads(self, source: str, target: str) -> bool:
        """Whether there is a way from `source` to `target`."""
        seen, todo = {source}, [source]
        while todo:
            here = todo.pop()
            if here == target:
                return True
            after = {edge.target for edge in self.edges.values() if edge.source == here} - seen
            seen |= after
            todo += after
        return False


def trace(evidence: Evidence) -> Lineage:
    """The lineage of everything that `evidence` speaks of."""
    keys = _Keys(evidence)
    found = Lineage()
    for delta in evidence.deltas:
        own = found.add(Node(keys.of(delta.model), "delta", delta.model))
        for source in (delta.base, delta.post):
            if source is not None:
                found.link(found.add(Node(keys.of(source), "model", source)), own)
        _link_parts(found, keys, delta.parts, own)
    for release in evidence.releases:
        own = found.add(Node(keys.of(release.model), "release", release.model))
        if release.base is not None:
            found.link(found.add(Node(keys.of(release.base), "model", release.base)), own)
        _link_parts(found, keys, release.parts, own)
    for number, verdict in enumerate(evidence.verdicts):
        own = found.add(Node(keys.of(verdict.model), "model", verdict.model))
        state = "passed" if verdict.passed else "refused"
        note = f"{verdict.met} of {len(verdict.conditions)} conditions"
        gate = Node(f"gate {number}", "gate", verdict.model, note, state)
        found.link(own, found.add(gate))
    judged = [verdict.model.fingerprint for verdict in evidence.verdicts]
    for number, model in enumerate(evidence.published):
        final = found.add(Node(f"published {number}", "release", model, "published"))
        gates = [f"gate {n}" for n, fingerprint in enumerate(judged) if fingerprint == model.fingerprint]
        for before in gates or [keys.of(model)]:
            found.link(before, final)
    return found


def _link_parts(found: Lineage, keys: _Keys, parts: Sequence[Part], own: str) -> None:
    """The deltas of a sum, and what they were made of themselves."""
    for part in parts:
        if part.delta.location is None and part.delta.fingerprint is None:
            made = Model("difference made on the way")  # of two checkpoints, and never written
            key = found.add(Node(f"{own} {keys.of(part.post)}", "delta", made))
        else:
            key = found.add(Node(keys.of(part.delta), "delta", part.delta))
        for source in (part.base, part.post):
            if source is not None:
                found.link(found.add(Node(keys.of(source), "model", source)), key)
        found.link(key, own, "" if part.scale == 1 else f"× {part.scale:g}")


class _Keys:
    """The identity of things: a location stands for the one fingerprint that was seen with it."""

    def __init__(self, evidence: Evidence) -> None:
        self._known: dict[str, set[str]] = {}
        for model in _models(evidence):
            if model.location and model.fingerprint:
                self._known.setdefault(model.location, set()).add(model.fingerprint)

    def of(self, model: Model | None) -> str:
        """The key of `model`."""
        if model is None:
            return "?"
        if model.fingerprint:
            return model.fingerprint
        found = self._known.get(model.location or "", set())
        return next(iter(found)) if len(found) == 1 else f"at {model.location}"


def _models(evidence: Evidence) -> Iterator[Model]:
    """Every checkpoint and delta that is spoken of."""
    facts: list[Delta | Release] = [*evidence.deltas, *evidence.releases]
    for each in facts:
        sides = [each.base, each.post if isinstance(each, Delta) else None]
        for part in each.parts:
            sides += [part.delta, part.base, part.post]
        yield each.model
        yield from (model for model in sides if model is not None)
    yield from (verdict.model for verdict in evidence.verdicts)
    yield from (check.model for check in evidence.checks)
    for evaluation in evidence.evaluations:
        yield from (Model(each.location, each.fingerprint) for each in evaluation.scores.values())
