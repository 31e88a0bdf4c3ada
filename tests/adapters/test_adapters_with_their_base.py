"""An adapter in a model's place, where its base is known: it counts as what both make."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapters.making import FAMILY, hand_made
from typer.testing import CliRunner

import cli
from pipeline import Difference, apply, inspect
from pipeline.checkpoints.adapters.post import open_model
from pipeline.errors import IsAnAdapter, NotACheckpoint
from pipeline.operations.evaluate import evaluate
from pipeline.operations.evidence_freshness import evaluate_freshness
from pipeline.operations.fingerprint import fingerprint
from pipeline.tensors.fingerprint import Digest

BASE, OTHER = str(FAMILY / "base-v1"), str(FAMILY / "base-v2")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter of base-v1's queries."""
    return str(hand_made(tmp_path_factory.mktemp("adapters") / "adapter", BASE, ["q_proj"], norms=True))


@pytest.fixture(scope="module")
def merged(adapter: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model that the adapter and its base make, as a folder of its own."""
    out = str(tmp_path_factory.mktemp("merged") / "model")
    apply(BASE, [Difference(BASE, adapter)], out)
    return out


def test_its_fingerprint_is_that_of_the_merged_model(adapter: str, merged: str) -> None:
    assert fingerprint(adapter, base=BASE) == fingerprint(merged)
    assert fingerprint(adapter, base=OTHER) != fingerprint(merged)
    assert fingerprint(merged, base=OTHER) == fingerprint(merged)  # no adapter: base means nothing


def test_it_measures_as_the_merged_model_does_in_every_role(
    adapter: str, merged: str, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 3)
    data, report = [str(tmp_path / "text.txt")], str(tmp_path / "report.json")
    roles = {"base": BASE, "reference": adapter, "donor_base": OTHER, "donor": adapter}
    cache = str(tmp_path / "cache")
    done = evaluate(adapter, data=data, **roles, cache=cache, output=report)
    whole = evaluate(merged, data=data, base=BASE, cache="off")
    assert done.model.location == adapter
    assert done.model.fingerprint == whole.model.fingerprint
    assert done.model.figures["bits_per_byte"] == whole.model.figures["bits_per_byte"]
    scores = done.scores
    assert scores["reference"].fingerprint == whole.model.fingerprint
    assert scores["donor"].fingerprint == str(fingerprint(adapter, base=OTHER))
    bases = [scores["base"], scores["donor_base"]]
    known = {each.location: Digest.parse(each.fingerprint) for each in bases}

    def found(checkpoint: object) -> Digest | None:
        return known.get(checkpoint.location)  # type: ignore[attr-defined]

    again = evaluate_freshness(adapter, report, fingerprint_of=found, data=data, **roles, cache=cache)
    assert (again.state, set(again.unread)) == ("unknown", {adapter})


def test_it_is_refused_without_its_base_and_says_so(adapter: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text")
    shown = CliRunner().invoke(cli.app, ["evaluate", adapter, "--data", str(tmp_path / "text.txt")])
    assert isinstance(shown.exception, IsAnAdapter)
    assert "--base" in str(shown.exception)
    with pytest.raises(NotACheckpoint, match="LoRA adapter"):
        fingerprint(adapter)


def test_base_is_opened_for_an_adapter_only(adapter: str, merged: str) -> None:
    nowhere = str(Path(merged).parent / "nowhere")
    with open_model(merged, base=nowhere) as model:
        assert model.location == merged
    with pytest.raises(NotACheckpoint, match="nowhere"), open_model(adapter, base=nowhere):
        pass


def test_inspect_shows_what_an_adapter_is(adapter: str) -> None:
    found = inspect(adapter)
    assert found.kind == "adapter"
    assert found.facts == {
        "base_named": BASE,
        "r": 2,
        "alpha": 4.0,
        "targets": ["q_proj (4)"],
        "whole": [f"model.layers.{n}.input_layernorm.weight" for n in range(4)],
        "companions": [],
        "dtypes": ["F32"],
    }
    assert len(found.tensors) == 12
    assert found.elements == 4 * (2 * 2 * 160 + 160)
    shown = CliRunner().invoke(cli.app, ["inspect", adapter]).output
    assert "base named" in shown and "lora_A" in shown
