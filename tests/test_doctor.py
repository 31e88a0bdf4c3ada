"""doctor: what it looks at, in which order, and what it says of each kind of trouble."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers.azurite import Azurite
from servers.hub import HubServer

import cli
from pipeline import doctor
from pipeline.errors import PipelineError, StorageError
from pipeline.operations.doctor import machine as doctor_machine
from pipeline.operations.doctor.report import Check, Health
from pipeline.storage.locations import parse_store

ORDER = ["versions", "memory", "disk", "credentials", "account", "container", "blob", "hub", "kernels"]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: HubServer) -> None:
    """A machine where all is well: an empty folder, and a Hub that answers."""
    monkeypatch.chdir(tmp_path)
    hub.patch_client(monkeypatch, tmp_path / "home")


def named(report: Health, name: str) -> Check:
    (check,) = (check for check in report.checks if check.name == name)
    return check


def problems(report: Health) -> list[str]:
    return [check.name for check in report.checks if check.status == "problem"]


@pytest.fixture
def container(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh container that the environment opens."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    return str(azurite.create_container().container_name)


def test_all_is_well_with_a_folder(tmp_path: Path) -> None:
    report = doctor()
    assert report.ok and report.exit_code == 0, report
    assert [check.name for check in report.checks] == ORDER
    assert [check.name for check in report.checks if check.status == "skipped"] == ORDER[3:7]
    assert list(tmp_path.iterdir()) == []


def test_all_is_well_with_a_container_and_nothing_is_left_there(
    azurite: Azurite, container: str
) -> None:
    report = doctor(store=f"az://{container}/some/prefix")
    assert report.ok, report
    assert "skipped" not in {check.status for check in report.checks}
    assert "an account key" in named(report, "credentials").detail
    assert "clocks agree" in named(report, "account").detail
    assert list(azurite.client(container).list_blobs(include=["uncommittedblobs"])) == []


def test_the_hub_says_who_is_signed_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens.add("hf_canarycanarycanary")
    monkeypatch.setenv("HF_TOKEN", "hf_canarycanarycanary")
    assert "signed in as tester" in named(doctor(), "hub").detail
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrong")
    report = doctor()
    assert (problems(report), report.exit_code) == (["hub"], 5)
    assert "refuses the token" in named(report, "hub").detail


def test_a_hub_that_is_down_stops_nothing_else(hub: HubServer) -> None:
    hub.stop()
    report = doctor()
    assert (problems(report), report.exit_code) == (["hub"], 5)
    assert "HF_ENDPOINT" in (named(report, "hub").hint or "")


def test_a_container_that_is_not_there_stops_only_the_blob(container: str) -> None:
    report = doctor(store="az://no-such-one")
    assert (problems(report), report.exit_code) == (["container"], 3)
    assert "az storage container create" in (named(report, "container").hint or "")
    assert named(report, "blob").status == "skipped"
    assert named(report, "kernels").status == "ok"


def test_no_account_stops_what_is_in_it() -> None:
    report = doctor(store="az://container")
    assert (problems(report), report.exit_code) == (["credentials"], 5)
    assert {named(report, name).detail for name in ("account", "container", "blob")} == {
        "first see to the credentials"
    }


def test_a_sas_that_cannot_delete_is_told_and_what_was_left_is_named(azurite: Azurite) -> None:
    client = azurite.create_container()
    report = doctor(store=f"{azurite.url}/{client.container_name}?{azurite.sas_token('rwlc')}")
    assert (problems(report), report.exit_code) == (["blob"], 5)
    (left,) = client.list_blobs()
    assert left.name in named(report, "blob").detail
    assert "rwlc" in named(report, "blob").detail


def test_a_sas_that_only_reads_is_told_before_anything_is_written(azurite: Azurite) -> None:
    client = azurite.create_container()
    report = doctor(store=f"{azurite.url}/{client.container_name}?{azurite.sas_token('rl')}")
    assert problems(report) == ["blob"]
    assert "its permissions are rl" in named(report, "blob").detail
    assert list(client.list_blobs()) == []


@pytest.fixture
def late() -> Iterator[str]:
    """The address of an account whose clock is an hour behind ours."""

    class Late(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(400)
            there = datetime.now(UTC) - timedelta(hours=1)
            self.send_header("Date", format_datetime(there, usegmt=True))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/acc"
    server.shutdown()
    server.server_close()


def test_a_wrong_clock_is_found_before_anything_is_signed(late: str) -> None:
    report = doctor(store=f"{late}/container?sp=rl&sig=c2ln")
    assert (problems(report), report.exit_code) == (["account"], 5)
    assert "clock is 60 minutes ahead" in named(report, "account").detail
    assert "timedatectl" in (named(report, "account").hint or "")


def test_packages_that_differ_are_named(tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("# a comment\nnumpy==0.0.1\nno-such-package==1.0\n")
    with pytest.raises(PipelineError, match=r"numpy .* instead of 0\.0\.1.*is missing instead of 1\.0"):
        doctor_machine.check_versions(wanted)


def test_little_memory_or_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1 kB\nMemAvailable:     300000 kB\n")
    monkeypatch.setattr(doctor_machine, "_MEMINFO", meminfo)
    with pytest.raises(PipelineError, match=r"--memory"):
        doctor_machine.check_memory()
    monkeypatch.setattr(doctor_machine, "ROOM_BYTES", 1 << 60)
    with pytest.raises(StorageError, match="free"):
        doctor_machine.check_disk(parse_store("./store"))


def test_the_memory_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("400000000\n")
    (tmp_path / "memory.current").write_text("390000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 290000000\n")  # given back on demand
    monkeypatch.setattr(doctor_machine, "_CGROUP", tmp_path)
    with pytest.raises(PipelineError, match="286 MiB"):
        doctor_machine.check_memory()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["cli.py", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_prints_a_line_for_each_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "doctor", "--store", "az://container") == 5
    shown = capsys.readouterr()
    assert [line.split()[1] for line in shown.out.splitlines()] == ORDER
    assert shown.err == ""
    assert run(monkeypatch, "doctor") == 0


def test_the_command_speaks_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "doctor", "--store", "az://container", "--format", "json") == 5
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [check["name"] for check in found["checks"]] == ORDER
