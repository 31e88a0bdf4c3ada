"""The command line as people and programs meet it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli
from forks import ROOT
from keys import make_pair
from models import cast, near, random_state, read_model, same_bits, write_model

from cli import COMMANDS

HEAVY = ("torch", "transformers", "azure", "numba", "numpy", "huggingface_hub", "rich")


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """The folders base, post and new, three checkpoints of one small model."""
    state = random_state(1)
    for name, seed in (("base", 0), ("post", 2), ("new", 3)):
        write_model(tmp_path / name, cast(near(state, seed) if seed else state))
    return tmp_path


COMPUTE = ("compute", "--base", "./base", "--post", "./post", "--output", "d.safetensors")
APPLY = ("apply", "--base", "./base", "--delta", "d.safetensors", "--output", "./out")
COMBINE = ("combine", "--delta", "d.safetensors=0.5", "--output", "c.safetensors")
CONVERT = ("convert", "d.safetensors", "--codec", "none", "--output", "p.safetensors")


# The module of each: the one of them that a run imports.
THEIRS = {name: f"pipeline.commands.{place.partition('.')[0]}" for name, place in COMMANDS.items()}


# Asks for the help of each command, in a fork of a process that has imported the command line and no
# more; prints what it says, and which of some modules it then has.
HELPED = """
import io, json, os, sys, cli
commands, wanted = json.loads(sys.argv[1])
for command in commands:
    if not os.fork():
        sys.argv, shown, sys.stdout = ["cli.py", *command.split(), "--help"], sys.stdout, io.StringIO()
        try:
            cli.main()
        finally:
            imported = sorted(set(sys.modules) & set(wanted))
            print(json.dumps([command, sys.stdout.getvalue(), imported]), file=shown, flush=True)
            os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def helped() -> dict[str, tuple[str, list[str]]]:
    """What each command says when it is asked for help, and what it imports; "" is none of them."""
    asked = json.dumps([["", *COMMANDS], [*HEAVY, *THEIRS.values()]])
    command = [sys.executable, "-c", HELPED, asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: (text, has) for name, text, has in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_quick_because_it_imports_nothing_heavy(
    helped: dict[str, tuple[str, list[str]]], command: str
) -> None:
    text, imported = helped[command]
    assert f"Usage: cli.py {command}".strip() in text
    needed = {command, "evaluate"} if command == "sweep" else {command}  # which measures in the same way
    assert set(imported) == {THEIRS[name] for name in (needed if command else COMMANDS)}


def test_compute_then_apply_gives_post_back(script: Cli, family: Path) -> None:
    assert script(*COMPUTE).returncode == 0
    done = script(*APPLY)
    assert done.returncode == 0
    assert "same base, restored and verified bit for bit" in done.stdout
    wanted, found = read_model(family / "post"), read_model(family / "out")
    assert all(same_bits(wanted[name], found[name]) for name in wanted)


def test_json_on_standard_output_is_one_object_and_nothing_else(cli: Cli, family: Path) -> None:
    computed = json.loads(cli(*COMPUTE, "--format", "json").stdout)
    applied = json.loads(cli(*APPLY, "--format", "json").stdout)
    inspected = json.loads(cli("inspect", "d.safetensors", "--format", "json").stdout)
    assert computed["post_fingerprint"] == applied["fingerprint"]
    assert inspected["facts"]["post_fingerprint"] == computed["post_fingerprint"]
    assert len(inspected["tensors"]) == computed["tensors"]


@pytest.mark.parametrize("command", [COMPUTE, APPLY, COMBINE, CONVERT], ids=lambda words: words[0])
def test_a_dry_run_writes_nothing(cli: Cli, family: Path, command: tuple[str, ...]) -> None:
    if command is not COMPUTE:
        cli(*COMPUTE)
    before = sorted(family.rglob("*"))
    done = cli(*command, "--dry-run", "--format", "json")
    assert done.returncode == 0 and json.loads(done.stdout)["dry_run"] is True
    assert sorted(family.rglob("*")) == before


def test_an_error_is_one_line_on_standard_error_with_the_next_step(
    cli: Cli, script: Cli, family: Path
) -> None:
    cli(*COMPUTE)
    done = script(*COMPUTE)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "--overwrite" in done.stderr


def test_the_traceback_is_shown_only_with_debug_wherever_it_stands(cli: Cli, family: Path) -> None:
    for words in (("--debug", "inspect", "./nothing"), ("inspect", "./nothing", "--debug")):
        assert "Traceback" in cli(*words).stderr
    assert "Traceback" not in cli("inspect", "./nothing").stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("compute", "--base", "./base"), 2),  # a missing option
        (("inspect", "s3://bucket/model"), 2),  # no such kind of location
        ((*COMPUTE, "--memory", "lots"), 2),
        ((*COMPUTE, "--memory", "1KiB"), 2),
        ((*APPLY, "--scale", "nan"), 2),
        (("apply", "--base", "./base", "--delta", "d=x", "--output", "./o"), 2),
        (("batch",), 2),
        (("batch", "nothing.json"), 2),
        (("inspect", "./nothing"), 3),
        (APPLY, 3),  # the delta is not there
        ((*COMPUTE, "--codec", "zip"), 2),
        (("convert", "d.safetensors", "--output", "p.safetensors"), 2),  # no codec
        ((*COMPUTE, "--sign-key", "./none.pem"), 3),
        ((*COMPUTE, "--sign-key", "./base/config.json"), 2),
        (("verify", "./post"), 2),
        (("verify", "d.safetensors", "--require-signature"), 2),
        (("compute", "--base", "az://models/x", "--post", "./post", "--output", "d"), 5),
    ],
)
def test_an_exit_code_says_what_kind_of_failure_it_was(
    cli: Cli, family: Path, arguments: tuple[str, ...], code: int
) -> None:
    done = cli(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_delta_is_packed_unless_told_otherwise(cli: Cli, family: Path) -> None:
    cli(*COMPUTE)
    assert "rans" in cli("inspect", "d.safetensors").stdout
    done = cli(*CONVERT)
    assert done.returncode == 0, done.stderr
    cli(*COMPUTE, "--codec", "none", "--overwrite")
    one, two = ((family / "store" / name).read_bytes() for name in ("d.safetensors", "p.safetensors"))
    assert one == two


def test_inspect_shows_how_large_a_delta_is(cli: Cli, family: Path) -> None:
    cli(*COMPUTE)
    shown = cli("inspect", "d.safetensors").stdout
    facts = json.loads(cli("inspect", "d.safetensors", "--format", "json").stdout)["facts"]
    for name in ("delta l2", "base l2", "relative change"):
        (line,) = (line for line in shown.splitlines() if line.startswith(name))
        assert float(line.split()[-1]) == pytest.approx(facts[name.replace(" ", "_")], rel=0.01)


def test_a_sum_of_deltas_is_one(cli: Cli, family: Path) -> None:
    cli(*COMPUTE)
    assert cli(*COMBINE).returncode == 0
    shown = cli("inspect", "c.safetensors").stdout
    assert "d.safetensors × 0.5" in shown
    cli(*APPLY, "--scale", "0.5")
    done = cli("apply", "--base", "./base", "--delta", "c.safetensors", "--output", "./again")
    assert done.returncode == 0, done.stderr
    one, two = (read_model(family / name) for name in ("out", "again"))
    assert all(same_bits(one[name], two[name]) for name in one)


def test_what_is_whole_and_whose_it_is_is_proven(cli: Cli, family: Path) -> None:
    pair = make_pair(family, "p384", password="hush")
    other = make_pair(family, "ed25519")
    signing = ("--sign-key", pair.private)
    environment = {"PIPELINE_SIGN_PASSWORD": "hush"}
    assert cli(*COMPUTE, *signing, env=environment).returncode == 0
    assert cli(*APPLY, "--key", pair.public, *signing, env=environment).returncode == 0
    delta, model = ("verify", "d.safetensors"), ("verify", "./out")
    done = cli(*delta, "--base", "./base", "--post", "./post", "--key", pair.public)
    assert done.returncode == 0, done.stderr
    assert "restores post  yes" in done.stdout
    done = cli(*model, "--key", pair.public, "--require-signature", "--format", "json")
    assert json.loads(done.stdout)["signed_by"]
    assert cli(*delta, "--key", other.public).returncode == 9
    assert cli(*delta, "--base", "./new").returncode == 7
    (family / "store" / "d.safetensors.sig").unlink()
    assert cli(*delta, "--key", pair.public).returncode == 8
    weights = family / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"no")
    done = cli(*model)
    assert done.returncode == 6 and done.stderr.count("\n") == 1


def test_a_failed_step_of_a_batch_is_exit_code_3(cli: Cli, family: Path) -> None:
    pairs = [
        {"base": "./base", "post": f"./{name}", "output": f"{name}.safetensors"}
        for name in ("post", "no")
    ]
    (family / "config.json").write_text(json.dumps({"model_pairs": pairs}))
    done = cli("batch", "--config", "config.json")
    assert done.returncode == 3
    assert "done" in done.stdout and "failed" in done.stdout
    assert (family / "store" / "post.safetensors").exists()


def test_names_are_data_not_markup(cli: Cli, tmp_path: Path) -> None:
    state = random_state(1)
    write_model(tmp_path / "model", cast({"[red]x[/red]": state["model.norm.weight"]}))
    assert "[red]x[/red]" in cli("inspect", "./model").stdout
