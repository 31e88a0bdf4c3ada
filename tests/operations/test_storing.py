"""list, copy, delete and clean as commands: what they print, and what they ask first."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Cli
from operations.conftest import DELTA, listed


def test_the_commands_print_what_they_do(cli: Cli, shelf: str, tmp_path: Path) -> None:
    env = {"PIPELINE_STORE": shelf}
    said = cli("list", env=env).stdout
    assert "deltas/d.safetensors  delta" in said and "3 in " in said
    copied = json.loads(cli("copy", "models/m", "models/n", "--format", "json", env=env).stdout)
    assert copied["checked"] is True
    refused = cli("delete", "models/n", DELTA, env=env)
    assert refused.returncode == 2 and refused.stdout == ""
    assert "models/n" in refused.stderr and "--yes" in refused.stderr
    done = cli("delete", "models/n", DELTA, "--yes", "--format", "json", env=env)
    assert json.loads(done.stdout)["deleted"] is True
    assert list(listed(shelf)) == ["models/m", "notes.txt"]
    Path(shelf, ".x.partial-0123abcd").write_bytes(b"12345")
    for arguments, left in (([], True), (["--dry-run", "--yes"], True), (["--yes"], False)):
        done = cli("clean", "--older-than", "0s", *arguments, env=env)
        assert done.returncode == 0 and "1 of 1 leftovers" in done.stdout
        assert Path(shelf, ".x.partial-0123abcd").exists() is left


def test_a_name_in_a_store_can_not_steer_the_terminal(cli: Cli, shelf: str) -> None:
    Path(shelf, "a\x1b[31m[bold]b").write_text("")
    said = cli("list", env={"PIPELINE_STORE": shelf}).stdout
    assert "\x1b" not in said and "[bold]b" in said
