"""A run that is killed, interrupted, or overtaken by another one costs little and spoils nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch.chains import CHAIN, compute, config
from clouds import Cloud
from effort import times
from forks import Forks
from models import cast, layered_state, near, write_model
from signals import listen

from pipeline.batch.runner import run_batch
from pipeline.storage.azure.claim import CLAIM

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
KILLS = times(3, 25)  # that met a step at work
IN_SMALL_BLOCKS = {
    "pipeline.storage.azure.writing.BLOCK_BYTES": MIB,
    "pipeline.engine.schedule.REMOTE_WORKERS": 2,
}


@pytest.fixture
def release(folder, cloud: Cloud):
    """A config of two steps that write to the container, of models of 6 MiB; its path without .json."""
    base = layered_state(6, MIB, 0)
    write_model(Path("base-v1"), base)
    write_model(Path("post-v1"), layered_state(6, MIB, 1))
    write_model(Path("base-v2"), cast(near(base, 2)))

    def write(name: str, **more) -> str:
        steps = [
            {**CHAIN[0], "codec": "none", "output": f"{cloud.location}/{name}/d.safetensors"},
            {**CHAIN[1], "output": f"{cloud.location}/{name}/m"},
        ]
        report = f"{cloud.location}/reports/{name}.json"
        Path(f"{name}.json").write_text(json.dumps({"steps": steps, "report": report, **more}))
        return f"{name}.json"

    return write


def content(cloud: Cloud, name: str) -> dict[str, bytes]:
    """What was published, but for the files that say where it lies."""
    return {
        blob: cloud.read(f"{name}/{blob}")
        for blob in (each.removeprefix(f"{name}/") for each in cloud.names(f"{name}/"))
        if not blob.endswith(("README.md", "paramdelta.json"))
    }


def staged_bytes(cloud: Cloud, prefix: str) -> int:
    """What lies uncommitted."""
    total = 0
    for each in cloud.client.list_blobs(prefix, include=["uncommittedblobs"]):
        _, blocks = cloud.client.get_blob_client(each.name).get_block_list("uncommitted")
        total += sum(block.size for block in blocks)
    return total


def is_half_committed(cloud: Cloud, folder: str) -> bool:
    """Whether the weights of a model are committed, but the model is not published."""
    return {f"{folder}{CLAIM}", f"{folder}model.safetensors"} <= set(cloud.names(folder))


def sent_bytes(monkeypatch) -> list[int]:
    """Its only item grows by what is staged from here on."""
    from pipeline.storage.azure.writing import AzureWriter

    sent = [0]
    stage = AzureWriter._stage

    def staging(self, block, view, digest):
        stage(self, block, view, digest)
        if not self._name.endswith((".journal", ".json")):
            sent[0] += len(view)

    monkeypatch.setattr(AzureWriter, "_stage", staging)
    return sent


@pytest.mark.slow
def test_after_a_kill_finished_steps_and_staged_blocks_are_used(release, cloud, folder, monkeypatch):
    draw = random.Random(1)
    warm_up = ["compute", "--base", "base-v1", "--post", "base-v1", "--output", "./warm"]
    reused = staged = kills = 0
    for module, value in IN_SMALL_BLOCKS.items():
        monkeypatch.setattr(module, value)
    sent = sent_bytes(monkeypatch)
    with Forks(folder, [warm_up], values=IN_SMALL_BLOCKS) as forks:
        whole = forks.call("run_batch", release("whole"))
        assert whole.code == 0, whole.errors
        wanted = content(cloud, "whole")
        size = sum(len(data) for data in wanted.values())
        for number in range(20 * KILLS):
            name = f"run-{number}"
            moment = draw.uniform(0.1, 0.95) * whole.seconds
            forks.call("run_batch", release(name), after=moment)
            done = sum(len(data) for data in content(cloud, name).values())
            lying = staged_bytes(cloud, f"{name}/")
            if not lying or is_half_committed(cloud, f"{name}/m/"):
                continue  # it met no step at work, or the few commits of a folder: those are made again
            before = sent[0]
            report = run_batch(f"{name}.json")
            assert report.ok
            assert content(cloud, name) == wanted
            if done:
                assert report.steps[0].status == "fresh"
            staged += lying
            reused += lying - max(0, sent[0] - before - (size - done - lying))
            kills += 1
            if kills == KILLS:
                break
    print(f"{reused} of {staged} bytes that lay staged were used, after {kills} kills")
    assert kills == KILLS
    assert reused >= 0.8 * staged


def test_two_runs_of_one_config_at_once_both_end_well(release, cloud, folder):
    warm_up = ["compute", "--base", "base-v1", "--post", "base-v1", "--output", "./warm"]
    with Forks(folder, [warm_up]) as forks:
        assert forks.call("run_batch", release("alone")).code == 0
        wanted = content(cloud, "alone")
        for number in range(times(2, 6)):
            path = release(f"both-{number}", overwrite=number % 2 == 1)
            done = forks.race([["batch", path], ["batch", path]])
            assert [each.code for each in done] == [0, 0], [each.errors for each in done]
            assert content(cloud, f"both-{number}") == wanted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_keeps_what_is_staged_and_says_so(release, cloud, folder, number):
    path = release("asked")
    program = (
        "import sys, time; from pipeline.storage.azure import writing\n"
        "stage = writing.AzureWriter._stage\n"
        "def slow(self, *a):\n    stage(self, *a); print('staged', flush=True); time.sleep(0.3)\n"
        "writing.AzureWriter._stage = slow; writing.BLOCK_BYTES = 1 << 20\n"
        "import cli; sys.argv = ['cli.py', 'batch', sys.argv[1]]; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, path],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout
    while "staged" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 30
    assert staged_bytes(cloud, "asked/") >= MIB
    report = json.loads(cloud.read("reports/asked.json"))
    assert [step["error"] for step in report["steps"]] == [
        "interrupted", "the run was stopped before it: interrupted",
    ]  # fmt: skip
    assert run_batch(path).ok


def test_what_fails_between_two_steps_leaves_the_first_one_done(folder, family, states):
    write_model(Path("base-v2"), {"other": next(iter(states["base-v2"].values()))})
    first = run_batch(config(*CHAIN))
    assert [step.status for step in first.steps] == ["done", "failed"]
    write_model(Path("base-v2"), states["base-v2"])
    again = run_batch(config(*CHAIN))
    assert [step.status for step in again.steps] == ["fresh", "done"]
    assert run_batch(config(compute("delta"))).steps[0].status == "fresh"
