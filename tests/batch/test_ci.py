"""The workflows release from CI: valid by their services' schemas, and their shell really runs.

What GitHub and Azure Pipelines give a job is given here by hand: the checkout, variables, ID tokens or
the session of `az`, and the vault that `az` reads. The rest is what runs there: bash, pip, our command
line, an Azurite that speaks HTTPS and is given nothing but access tokens.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from azure.storage.blob import ContainerClient
from conftest import ROOT
from keys import Pair, make_pair
from servers.azurite import Azurite
from servers.tokens import CLIENT, TENANT, Tokens

GITHUB = ROOT / ".github" / "workflows" / "release.yml"
PIPELINES = ROOT / "docs" / "ci" / "azure-pipelines.yml"
STEPS = ["delta", "model", "delta-is-whole", "model-is-whole"]


# -- what the files say -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        (GITHUB, ["vendor.github-workflows"]),
        (
            PIPELINES,
            ["vendor.azure-pipelines", "--data-transform=azure-pipelines", "--regex-variant=nonunicode"],
        ),
    ],
    ids=["github", "azure-pipelines"],
)
def test_the_files_are_valid_by_their_official_schemas(path: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *arguments, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(GITHUB.read_text())
    return found


def test_actions_are_pinned_and_nothing_is_pasted_into_the_shell():
    steps = [step for job in workflow()["jobs"].values() for step in job["steps"]]
    for step in steps:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + 40 * "0"))
        assert "${{" not in step.get("run", "")
    assert "secrets." not in GITHUB.read_text()


def test_jobs_have_no_more_rights_than_they_need_and_releases_do_not_overlap():
    assert workflow()["permissions"] == {}
    plan, release = (workflow()["jobs"][name] for name in ("plan", "release"))
    for job in (plan, release):
        assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert "pull_request.head.repo.full_name == github.repository" in plan["if"]
    assert plan["env"]["AZURE_CLIENT_ID"] != release["env"]["AZURE_CLIENT_ID"]
    assert "vault" not in json.dumps(plan).lower().replace("its vault", "")
    assert release["concurrency"] == {
        "group": "release ${{ matrix.config }}",
        "cancel-in-progress": False,
    }


# -- what their shell does ----------------------------------------------------------------------------


@dataclass
class Runner:
    """A machine of a CI service. folder: of the checkout. environment: what the service gives a job."""

    folder: Path
    environment: dict[str, str]
    container: ContainerClient
    keys: Pair
    said: list[str] = field(default_factory=list)
    installed: set[str] = field(default_factory=set)

    def run(self, script: str, environment: dict[str, str]) -> int:
        """Run the shell of a step; its exit code. What is installed stays, and takes seconds to see."""
        if script in self.installed:
            return 0
        if "pip install" in script:
            self.installed.add(script)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.said.append(done.stdout + done.stderr)
        return done.returncode

    def blobs(self) -> set[str]:
        return set(self.container.list_blob_names())


@pytest.fixture
def runner(secure: Azurite, tokens: Tokens, tmp_path: Path) -> Runner:
    folder, tools = tmp_path / "checkout", tmp_path / "tools"
    for made in (folder, tools):
        made.mkdir()
    for name in ("cli.py", "pipeline", "configs", "examples", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    keys = make_pair(tmp_path, "ed25519")
    tokens.write_az(tools)
    (tools / "az").rename(tools / "az-tokens")
    asks = 'test "$1 $2 $3 $7" = "keyvault secret show release-sign-key"'
    vault = f"{asks} && exec cat {shlex.quote(keys.private)}"
    (tools / "az").write_text(f"#!/bin/sh\n{vault}\nexec '{tools}/az-tokens'\n")
    (tools / "az").chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"PATH": path, "PIP_NO_INDEX": "1"}  # all that pip is asked for is there
    return Runner(folder, given, secure.create_container(), keys)


def run_job(runner: Runner, name: str, given: dict[str, str]) -> int:
    """Run the shell of a job of the workflow; the exit code of its first step that failed."""
    job = workflow()["jobs"][name]
    environment = {key: _evaluate(value, given) for key, value in job["env"].items()}
    environment["GITHUB_STEP_SUMMARY"] = str(runner.folder.parent / f"{name}-summary.md")
    failed = 0
    for step in job["steps"]:
        if "run" in step and (not failed or step.get("if") == "always()"):
            code = runner.run(step["run"], environment)
            failed = failed or code
    return failed


def _evaluate(text: str, given: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: given[found[1]], text)


@pytest.mark.slow
def test_the_workflow_plans_releases_and_finds_nothing_to_do(
    runner: Runner, secure: Azurite, tokens: Tokens, tmp_path: Path
) -> None:
    runner.environment |= tokens.environment("github", tmp_path)
    given = {
        "matrix.config": "configs/azure-release.json",
        "vars.AZURE_PLAN_CLIENT_ID": CLIENT,
        "vars.AZURE_CLIENT_ID": CLIENT,
        "vars.AZURE_TENANT_ID": TENANT,
        "vars.AZURE_STORAGE_ACCOUNT_URL": secure.url,
        "vars.RELEASE_CONTAINER": str(runner.container.container_name),
        "vars.RELEASE_PUBLIC_KEY": Path(runner.keys.public).read_text(),
        "vars.RELEASE_VAULT": "vault",
    }
    summary, results = tmp_path / "plan-summary.md", runner.folder / "results"

    assert run_job(runner, "plan", given) == 0, runner.said
    assert "plan has nothing against it" in summary.read_text()
    assert "4 steps: 4 to do" in summary.read_text()
    assert not runner.blobs()

    assert run_job(runner, "release", given) == 0, runner.said
    assert {"models/chat-v2/paramdelta.json.sig", "reports/azure-release.json"} < runner.blobs()
    report = json.loads((results / "report.json").read_text())
    assert [(step["id"], step["status"]) for step in report["steps"]] == [(s, "done") for s in STEPS]
    (suite,) = ElementTree.parse(results / "junit.xml").getroot()
    assert [case.get("name") for case in suite.iter("testcase")] == STEPS
    assert (results / "summary.md").read_text() in (tmp_path / "release-summary.md").read_text()
    assert not list(runner.folder.rglob("*.pem"))
    events = [json.loads(line) for line in runner.said[-2].splitlines()]
    assert [event["event"] for event in (events[0], events[-1])] == ["run_started", "run_ended"]
    assert set(tokens.log) == {"az", "id token", "github"}
    assert tokens.log.count("az") == 1  # when the fixture wrote its script

    assert run_job(runner, "plan", given) == 0, runner.said
    assert summary.read_text().count("4 steps: 4 up to date") == 1

    # Another key than the one that the variable names: nothing is put where a release should be.
    given["vars.RELEASE_CONTAINER"] = str(secure.create_container().container_name)
    given["vars.RELEASE_PUBLIC_KEY"] = Path(make_pair(tmp_path, "p256").public).read_text()
    assert run_job(runner, "release", given) == 3
    assert not list(runner.folder.rglob("*.pem"))
    failed = ElementTree.parse(results / "junit.xml").getroot()
    assert failed.get("failures") == "2"  # the model was not made, nor the delta believed
    told = "".join(runner.said) + summary.read_text() + (results / "summary.md").read_text()
    assert not [token for token in (*tokens.issued, tokens.request_token) if token in told]


@pytest.mark.slow
def test_the_pipeline_plans_and_releases(
    runner: Runner, secure: Azurite, tokens: Tokens, tmp_path: Path
) -> None:
    runner.environment |= tokens.environment("az", tmp_path)
    pipeline = yaml.safe_load(PIPELINES.read_text())
    (runner.folder / "keys").mkdir()
    (runner.folder / "keys" / "release.pub.pem").write_text(Path(runner.keys.public).read_text())
    macros = {"Agent.TempDirectory": str(tmp_path / "temp"), "Pipeline.Workspace": str(tmp_path)}
    (tmp_path / "temp").mkdir()
    variables = {
        name: re.sub(r"\$\(([\w.]+)\)", lambda found: macros[found[1]], value)
        for name, value in pipeline["variables"].items()
    }
    variables |= {
        "AZURE_STORAGE_ACCOUNT_URL": secure.url,
        "RELEASE_CONTAINER": str(runner.container.container_name),
    }
    plan, release = (stage["jobs"][0] for stage in pipeline["stages"])
    for steps in (plan["steps"], release["strategy"]["runOnce"]["deploy"]["steps"]):
        for step in steps:
            script = step.get("bash") or step.get("inputs", {}).get("inlineScript")
            if script:
                assert runner.run(script, variables) == 0, runner.said
    shown = [line for text in runner.said for line in text.splitlines() if line.startswith("##vso")]
    assert [Path(line.partition("]")[2]).name for line in shown] == ["plan.md", "summary.md"]
    assert "4 to do" in (runner.folder / "results" / "plan.md").read_text()
    assert "4 steps: 4 done" in (runner.folder / "results" / "summary.md").read_text()
    assert "models/chat-v2/paramdelta.json.sig" in runner.blobs()
    assert not (tmp_path / "temp" / "private.pem").exists()
