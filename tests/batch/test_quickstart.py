"""configs/quickstart.json: a wrong delta is measured and refused, the right one gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from models import formula, read_model, same_bits
from safetensors.torch import save_file

from pipeline.batch.report import BatchReport
from pipeline.batch.runner import run_batch

FAMILY = ROOT / "examples" / "family"
CONFIG = "configs/quickstart.json"
FINAL = Path("build/quickstart/post-v2-transferred")
QUESTIONS = 16  # of 800, two of each task
CHARACTERS = 300  # of prose


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: the configs, the models, and a part of the held-out data."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    family = tmp_path / "examples" / "family"
    (family / "heldout").mkdir(parents=True)
    for name in ("base-v1", "post-v1", "base-v2", "post-v2"):
        (family / name).symlink_to(FAMILY / name)
    questions = (FAMILY / "heldout" / "tasks.jsonl").read_text().splitlines(keepends=True)
    (family / "heldout" / "tasks.jsonl").write_text("".join(questions[:QUESTIONS]))
    for name in ("docstrings.txt", "topics.txt"):
        prose = (FAMILY / "heldout" / name).read_text()[:CHARACTERS]
        (family / "heldout" / name).write_text(prose)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(**options: Any) -> BatchReport:
    return run_batch(CONFIG, **options)


def shuffled(seed: int, folder: Path) -> str:
    """A model whose difference from base-v1 has post-v1's values, in each tensor in another order."""
    base, post = read_model(FAMILY / "base-v1"), read_model(FAMILY / "post-v1")
    order = torch.Generator().manual_seed(seed)
    for name, tensor in post.items():
        before = base[name].float()
        change = (tensor[: len(before)].float() - before).flatten()
        moved = change[torch.randperm(len(change), generator=order)].view_as(before)
        post[name] = torch.cat([(before + moved).to(tensor.dtype), tensor[len(before) :]])
    return _as_model(folder, post, "post-v1")


def unrelated(seed: int, folder: Path) -> str:
    """A model of base-v1's shapes and norms that has nothing else of it: its values in another order."""
    order = torch.Generator().manual_seed(seed)
    state = {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=order)].view_as(tensor)
        for name, tensor in read_model(FAMILY / "base-v1").items()
    }
    return _as_model(folder, state, "base-v1")


def _as_model(folder: Path, state: dict[str, torch.Tensor], like: str) -> str:
    shutil.copytree(FAMILY / like, folder)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return f"./{folder}"


def changed(models: Mapping[str, str], *, scale: float = 1) -> None:
    """The config with other models under their names, and the delta applied at `scale`."""
    config = json.loads((ROOT / CONFIG).read_text())
    (candidate,) = (step for step in config["steps"] if step["run"] == "apply")
    candidate["deltas"] = [f"{candidate['deltas'][0]}={scale}"]
    candidate["allow_unrelated"] = True  # else apply refuses, before the gate has anything to judge
    config["models"] |= models
    Path(CONFIG).write_text(json.dumps(config))


def test_a_wrong_delta_is_refused_and_the_right_one_released() -> None:
    for models, scale in (
        ({}, -1),  # sign-flipped
        ({"post-v1": shuffled(0, Path("shuffled"))}, 1),
        ({"base-v1": unrelated(0, Path("unrelated"))}, 1),
    ):
        changed(models, scale=scale)
        wrong = run()
        by_run = {step.run: step for step in wrong.steps}
        assert [by_run[name].status for name in ("apply", "evaluate", "gate", "publish")] == [
            "done", "done", "failed", "skipped",
        ]  # fmt: skip
        assert wrong.exit_code == 4
        assert by_run["gate"].error is not None
        assert "gap_recovered.mean >= 0.7" in by_run["gate"].error
        assert not FINAL.exists()

    shutil.copy(ROOT / CONFIG, CONFIG)
    right = run()
    assert right.ok, [step.error for step in right.steps if step.error]
    by_run = {step.run: step for step in right.steps}
    assert (by_run["evaluate"].status, by_run["publish"].status) == ("done", "done")
    candidate = Path("build/quickstart/candidate/model.safetensors")
    assert (FINAL / "model.safetensors").read_bytes() == candidate.read_bytes()
    base, post, new = (read_model(FAMILY / name) for name in ("base-v1", "post-v1", "base-v2"))
    for name, tensor in read_model(FINAL).items():
        assert same_bits(tensor, formula(new[name], (1.0, post[name], base[name]))), name
    figures = by_run["evaluate"].result["figures"]
    assert figures["gap_recovered.mean"]["value"] > 0.7

    again = run()
    assert {step.status for step in again.steps} == {"fresh"}

    measured = Path("examples/family/heldout/topics.txt")
    measured.write_text(measured.read_text() + "More.\n")
    planned = {step.run: step for step in run(dry_run=True).steps}
    assert planned["evaluate"].reason == "what is there is of other data"
    assert planned["publish"].status == "planned"
