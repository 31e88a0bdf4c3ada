"""The examples do what they say, on the model family of the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from models import formula, read_model, same_bits

FAMILY = ROOT / "examples" / "family"


def run(*arguments: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_basic_usage_runs(tmp_path: Path) -> None:
    said = run(ROOT / "examples" / "basic_usage.py", tmp_path)
    assert "same base, restored and verified bit for bit: True" in said
    restored, post = read_model(tmp_path / "restored-v1"), read_model(FAMILY / "post-v1")
    assert all(same_bits(restored[name], post[name]) for name in post)


def test_the_quickstart_config_transfers_by_the_formula(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    report = json.loads(
        run(ROOT / "cli.py", "batch", "configs/quickstart.json", "--format", "json", cwd=tmp_path)
    )
    assert [step["status"] for step in report["steps"]] == ["done", "done"]
    moved = read_model(tmp_path / "build" / "quickstart" / "post-v2-transferred")
    base, post, new = (read_model(FAMILY / name) for name in ("base-v1", "post-v1", "base-v2"))
    for name, tensor in moved.items():
        assert same_bits(tensor, formula(new[name], (1.0, post[name], base[name]))), name


def test_the_transferred_model_loads_and_follows_instructions(tmp_path: Path) -> None:
    model = tmp_path / "moved"
    delta = tmp_path / "delta.safetensors"
    run(
        ROOT / "cli.py",
        "compute",
        "--base",
        FAMILY / "base-v1",
        "--post",
        FAMILY / "post-v1",
        "--output",
        delta,
    )
    run(ROOT / "cli.py", "apply", "--base", FAMILY / "base-v2", "--delta", delta, "--output", model)
    told = run(FAMILY / "evaluate.py", FAMILY / "base-v2", model, "--prompts", "40", "--format", "json")
    before, after = (result["overall"]["value"] for result in json.loads(told))
    assert before < 0.1 and after > 0.8
