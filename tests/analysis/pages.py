"""What tests of pages share: evidence made by the real data classes, and HTML read back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from pipeline.analysis.page.facts import (
    Condition,
    Delta,
    Evidence,
    Model,
    Part,
    Release,
    Tensor,
    Verdict,
)
from pipeline.quality.report import DataSet, Evaluation, Measurement, Scores

# As names of models, tensors and files: markup, ends of scripts, marks of direction, quotes.
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "a\u202egnp.exe\u2066",
    "'\"><svg onload=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
)
VOID = {"meta", "link", "input", "img", "br", "wbr"}


def tensor(name: str, change: float, **options: Any) -> Tensor:
    """A tensor of 64 elements that changed by that share of its norm."""
    options = {"changed": 48, "remainders": 1, "exceptions": 0, "delta_max": 0.5, **options}
    return Tensor(name, "BF16", (8, 8), delta_l2=change, base_l2=1.0, **options)


def tensors(layers: int) -> list[Tensor]:
    """Two tensors in each layer; deeper ones changed more."""
    return [
        tensor(f"model.layers.{n}.{part}.weight", (n + 1) * size)
        for n in range(layers)
        for part, size in (("mlp.up_proj", 0.001), ("self_attn.q_proj", 0.002))
    ]


def delta(name: str = "post-v1", **options: Any) -> Delta:
    """A delta of two known models."""
    known = {
        "model": Model(f"deltas/{name}.safetensors", "d" * 64),
        "base": Model("org/base-v1", "a" * 64),
        "post": Model("org/post-v1", "b" * 64),
    }
    return Delta(**{**known, "tensors": tensors(3), "elements": 384, "changed": 288, **options})


def release(name: str = "post-v2", **options: Any) -> Release:
    """A release made of `delta()` on another base."""
    part = Part(1.0, Model("deltas/post-v1.safetensors", "d" * 64))
    base = Model("org/base-v2", "c" * 64)
    return Release(Model(f"releases/{name}", "e" * 64), base, [part], **options)


def evaluation(**scores: dict[str, float]) -> Evaluation:
    """An evaluation with these figures by role; each has a standard error of 0.02."""
    found: Any = {}
    for role, figures in scores.items():
        measured = {name: Measurement(value, 0.02, 50) for name, value in figures.items()}
        found[role] = Scores(f"models/{role}", role[0] * 64, measured)
    return Evaluation(scores=found, data=(DataSet("tasks", "task", "f" * 64, 50),))


def verdict(*, passed: bool = True) -> Verdict:
    """A verdict on `release()`, with one condition that is met and one that is so if it passed."""
    conditions = [
        Condition("task:add >= base - 2se", True, "task:add >= base - 2se", ">=", 0.9, 0.05, 0.03),
        Condition("gap_recovered.mean >= 0.7", passed, "gap_recovered.mean >= 0.7", ">=", 0.65, 0.7),
    ]
    return Verdict(Model("releases/post-v2", "e" * 64), passed, conditions)


def everything() -> Evidence:
    """Evidence of every kind."""
    figures = {"task:add": 0.9, "task.mean": 0.9, "bits_per_byte:prose": 1.5}
    judged = evaluation(
        model={**figures, "gap_recovered:add": 0.65, "gap_recovered.mean": 0.65},
        base={**figures, "task:add": 0.1},
        reference=figures,
    )
    return Evidence(deltas=[delta()], releases=[release()], evaluations=[judged], verdicts=[verdict()])


@dataclass
class Seen(HTMLParser):
    """A page as a browser would take it apart: elements with attributes, and the text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.unclosed[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def see(page: bytes) -> Seen:
    """Read a page back; everything that was opened must be closed."""
    seen = Seen()
    seen.feed(page.decode())
    seen.close()
    assert seen.unclosed == []
    return seen
