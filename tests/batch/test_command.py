"""`cli.py batch` as CI meets it: exit codes, lines of JSON, and the files that it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ROOT, Cli
from models import cast, near, random_state, write_model
from servers.azurite import Azurite
from servers.fault_proxy import Fault, FaultProxy
from signals import listen

STEP = {"id": "d", "run": "compute", "base": "./v1", "post": "./post", "output": "d.safetensors"}


@pytest.fixture(autouse=True)
def family(tmp_path: Path) -> None:
    state = random_state(0)
    for name, seed in (("v1", 1), ("post", 2)):
        write_model(tmp_path / name, cast(near(state, seed)))


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """Write a config with these steps; its name."""

    def write(*steps: dict[str, Any], **more: Any) -> str:
        (tmp_path / "c.json").write_text(json.dumps({"steps": steps, **more}))
        return "c.json"

    return write


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# What a process exits with


def test_all_done_is_0(cli: Cli, config: Any) -> None:
    name = config(STEP)
    for arguments in (("--dry-run",), (), ()):
        assert cli("batch", name, *arguments).returncode == 0


def test_mistakes_and_options_that_mean_nothing_are_2(cli: Cli, config: Any) -> None:
    assert cli("batch", config({**STEP, "run": "merge"})).returncode == 2
    name = config(STEP)
    for arguments in (("--only", "other"), ("--jobs", "0")):
        assert cli("batch", name, *arguments).returncode == 2


def test_a_step_that_failed_is_3_whatever_it_failed_for(cli: Cli, config: Any) -> None:
    name = config(
        {**STEP, "post": "./lost"}, {**STEP, "id": "e", "post": "az://lost/model", "output": "e"}
    )
    assert cli("batch", name).returncode == 3
    assert cli("batch", name, "--dry-run").returncode == 3


def test_steps_that_failed_for_credentials_or_network_alone_are_5(cli: Cli, config: Any) -> None:
    name = config(STEP, {**STEP, "id": "e", "post": "az://lost/model", "output": "e"})
    done = cli("batch", name)
    assert done.returncode == 5
    assert done.stderr.startswith("error: failed: e ")
    assert cli("batch", config(STEP, report="az://lost/report.json")).returncode == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_is_130_and_every_end_is_told(
    azurite: Azurite, config: Any, tmp_path: Path, number: signal.Signals
) -> None:
    container = azurite.create_container().container_name
    with FaultProxy(azurite.url) as proxy:
        proxy.once(Fault("delay", seconds=2.0), "PUT", "comp=block", times=10)
        location = f"{proxy.url}/{container}/d.safetensors?{azurite.sas_token()}"
        steps = ({**STEP, "output": location}, {"id": "v", "run": "verify", "target": "@d"})
        arguments = ["batch", config(*steps), "--format", "json", "--junit", "j.xml"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "s.md")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=listen,
        )
        assert process.stderr is not None
        first = [process.stderr.readline() for _ in range(2)]
        process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    told = events("".join(first) + rest)
    assert [event["event"] for event in told] == [
        "run_started", "step_started", "step_ended", "step_ended", "run_ended",
    ]  # fmt: skip
    assert [event.get("error") for event in told[2:4]] == [
        "interrupted", "the run was stopped before it: interrupted",
    ]  # fmt: skip
    assert told[-1]["exit_code"] == 130
    suites = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suites.get("failures"), suites.get("skipped")) == ("1", "1")
    assert "interrupted" in (tmp_path / "s.md").read_text()
    assert "sig=" not in "".join(first) + rest + (tmp_path / "s.md").read_text()


# What it leaves


def test_the_report_is_on_standard_output_and_events_are_on_standard_error(
    cli: Cli, config: Any
) -> None:
    done = cli("batch", config(STEP), "--format", "json")
    assert [step["status"] for step in json.loads(done.stdout)["steps"]] == ["done"]
    assert len(events(done.stderr)) == len(done.stderr.splitlines()) == 4


def test_results_are_written_where_they_are_wanted(cli: Cli, config: Any, tmp_path: Path) -> None:
    job = tmp_path / "job.md"
    job.write_text("before\n")
    environment = {"GITHUB_STEP_SUMMARY": str(job)}
    words = ("batch", config(STEP), "--junit", "out/j.xml", "--summary", "out/s.md")
    assert cli(*words, "--dry-run", env=environment).returncode == 0
    plan = (tmp_path / "out/s.md").read_text()
    assert "1 step: 1 to do" in plan
    assert cli(*words, env=environment).returncode == 0
    run = (tmp_path / "out/s.md").read_text()
    assert "1 step: 1 done" in run
    assert job.read_text() == f"before\n{plan}\n{run}\n"
    assert ElementTree.parse(tmp_path / "out/j.xml").getroot().get("tests") == "1"


def test_mistakes_are_in_the_summary_too(cli: Cli, config: Any, tmp_path: Path) -> None:
    done = cli("batch", config({**STEP, "colour": "red", "codec": "zip"}), "--summary", "s.md")
    assert done.returncode == 2
    assert (tmp_path / "s.md").read_text().splitlines()[0] == "### c.json: 2 problems"


def test_results_that_can_not_be_written_stop_the_run_before_any_work(
    cli: Cli, config: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = cli("batch", config(STEP), "--junit", "file/j.xml")
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert not (tmp_path / "store").exists()


# What is written of it


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    """In the order of the page, and with what it shows of the plan."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = (ROOT / "docs" / "batch.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
    words = f"{shlex.quote(sys.executable)} {ROOT / 'cli.py'}"
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 7
    (shown,) = re.findall(r"```console\n\$ cli.py (.*?)\n(.*?)```", page, re.S)
    for line in (*commands, f".venv/bin/python cli.py {shown[0]}"):
        if line.endswith(shown[0]):
            shutil.rmtree(tmp_path / "build" / "chain")  # as it was before the commands
        done = subprocess.run(
            ["bash", "-c", line.replace(".venv/bin/python cli.py", words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
    # Times, and the sizes of buffers, are this machine's.
    plans = [re.sub(r"[\d.]+ s\)|memory [\d.]+", "", text) for text in (done.stdout, shown[1])]
    assert plans[0] == plans[1]
    assert json.loads((tmp_path / "build" / "report.json").read_text())["ok"]
    assert len(events((tmp_path / "build" / "events.jsonl").read_text())) == 12
