"""From the Hub to a container and back with no file in between: the whole file system is watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from models import near, random_state, write_model
from operations.test_clouds import ROOT
from servers.hub import HubServer

from pipeline import apply, compute

SETTLED = (".nbi", ".nbc", "/dev/null")  # of numba, which keeps machine code

# Runs one operation, and prints its result's fingerprint and every file that was opened for writing,
# made or renamed meanwhile.
WATCHED = """
import json, os, sys
files = []
MADE = ("os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkstemp", "tempfile.mkdtemp")

def watch(event, found):
    writes = event == "open" and found[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in MADE:
        files.append(str(found[0]))

sys.addaudithook(watch)
import pipeline
what, arguments, options = json.loads(sys.argv[1])
report = getattr(pipeline, what)(*arguments, **options)
print(json.dumps([report.fingerprint, files]))
"""


def run(
    hub: HubServer, home: Path, what: str, *arguments: object, **options: object
) -> tuple[str, list[str]]:
    """Run it in a process with a home and a temporary folder of its own."""
    scratch = home / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    # Python's own compiled modules are no matter here, and a new environment has none yet.
    python = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)}
    env = {**os.environ, **hub.env(home / "hf"), **python}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps([what, arguments, options])],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fingerprint, files = json.loads(done.stdout)
    return fingerprint, [name for name in files if not name.endswith(SETTLED)]


def below(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def models(hub: HubServer, tmp_path: Path) -> Path:
    """A base, its post and a new base on the Hub, of some megabytes each."""
    state = random_state(1, vocab=2000, width=256)
    for name, seed in (("base", 0), ("post", 2), ("new", 3)):
        made = {n: t.to(torch.bfloat16) for n, t in (near(state, seed) if seed else state).items()}
        hub.add_repo(f"org/{name}", write_model(tmp_path / name, made))
    return tmp_path


def test_between_hub_and_container_nothing_touches_the_disk(
    hub: HubServer, models: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # First, for what is compiled then is kept, and no longer to be written.
    local = compute(str(models / "base"), str(models / "post"), str(tmp_path / "d"))
    result = apply(str(models / "new"), [str(tmp_path / "d")], str(tmp_path / "out"))
    home, delta = tmp_path / "home", f"{cloud.location}/d.safetensors"
    computed = run(hub, home, "compute", "org/base", "org/post", delta, hub_cache="off")
    monkeypatch.setenv("PIPELINE_HUB_CACHE", "off")
    applied = run(hub, home, "apply", "org/new", [delta], f"{cloud.location}/out")
    assert computed == (local.fingerprint, [])
    assert applied == (result.fingerprint, [])
    assert below(home) == []
    assert all(request.range for request in hub.gets(".safetensors"))


def test_the_watch_sees_what_the_cache_keeps(hub: HubServer, models: Path, tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    home = tmp_path / "home"
    _, written = run(hub, home, "compute", "org/base", "org/post", str(tmp_path / "d"), hub_cache="on")
    assert any(str(home / "hf") in name for name in written)
    assert below(home).count("model.safetensors") == 2
