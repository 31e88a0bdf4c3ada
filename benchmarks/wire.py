"""How fast bytes go to a container and come back, beside other clients; and what is hidden behind what.

    .venv/bin/python benchmarks/wire.py [--runs 5] [--azurite] [--overlap 1.2B] [--work build/bench]

One gibibyte on loopback against a server that discards and serves (`wire_server.py`), so that clients
are compared and not a store; every contender in a process of its own, taking turns. With `--azurite`
against Azurite too, with azcopy beside. With `--overlap` also whether compute hides behind the upload.
It is no test: nothing fails when a figure is bad.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests"))

from machine import machine  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

GIB = 1 << 30
OBSTORE = "obstore==0.12.1"
AZCOPY = "@azure-tools/azcopy-linux@10.32.2"
KEY = base64.b64encode(secrets.token_bytes(64)).decode()  # of servers that live as long as this process

NAMES = {
    "raw": "plain HTTP, no digest",
    "md5": "the digests alone",
    "ours": "ours, with digests",
    "sdk": "azure-storage-blob, defaults",
    "tuned": "azure-storage-blob, 8 MiB × 4",
    "tuned-md5": "the same, validate_content",
    "obstore": "obstore, 8 MiB × 4",
    "azcopy": "azcopy",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: seconds of wall and of CPU, bytes of memory at the most."""

    wall: float
    cpu: float
    peak: float


@contextmanager
def null_server(rate: float | None = None) -> Iterator[str]:
    """The address of a container on a server of its own. rate: bytes a second that it takes at most."""
    command = [sys.executable, str(HERE / "wire_server.py"), *([str(rate)] if rate else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/bench/bench"
        server.stdin.close()


def transfer(name: str, direction: str, url: str, file: Path, env: dict[str, str]) -> Sample:
    """One contender's run, in a process of its own."""
    command = [sys.executable, HERE / "wire_client.py", name, direction, url, file]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {direction}: {done.stderr[-500:]}")
    return Sample(**json.loads(done.stdout.splitlines()[-1]))


def race(contenders: list[str], runs: int, file: Path, env: dict[str, str]) -> None:
    """All contenders in turns, up and down, against the null server."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    with null_server() as url:
        for _ in range(runs):
            for direction in ("up", "down"):
                for name in contenders:
                    if (direction, name) != ("down", "md5") and (direction, name) != (
                        "down",
                        "tuned-md5",
                    ):
                        found = transfer(name, direction, url, file, env)
                        samples.setdefault((direction, name), []).append(found)
    show("1 GiB against a server that discards and serves", samples)


def show(title: str, samples: dict[tuple[str, str], list[Sample]]) -> None:
    """Medians of each contender, and how they stand to ours."""
    table = Table("", "wall s", "CPU s", "peak MB", "wall ÷ ours", title=title, title_justify="left")
    for direction in ("up", "down"):
        table.add_section()
        mine = statistics.median(each.wall for each in samples[direction, "ours"])
        for (way, name), found in samples.items():
            if way == direction:
                walls = [each.wall for each in found]
                wall = statistics.median(walls)
                table.add_row(
                    f"{way}: {NAMES[name]}",
                    f"{wall:.2f} ({min(walls):.2f}–{max(walls):.2f})",
                    f"{statistics.median(each.cpu for each in found):.2f}",
                    f"{max(each.peak for each in found) / 1e6:.0f}",
                    f"{wall / mine:.2f}",
                )
    Console(width=100).print(table)


def against_azurite(runs: int, file: Path, work: Path, env: dict[str, str]) -> None:
    """A quarter of a gibibyte to Azurite and back, with azcopy if it runs here."""
    from servers.azurite import Azurite

    part = work / "wire-256m"
    with file.open("rb") as source, part.open("wb") as target:
        for _ in range(GIB // 4 >> 20):
            target.write(source.read(1 << 20))
    azcopy = install_azcopy(work / "azcopy")
    samples: dict[tuple[str, str], list[Sample]] = {}
    with Azurite() as azurite:
        container = azurite.create_container("bench")
        env = {**env, "WIRE_ACCOUNT": azurite.account_name, "WIRE_KEY": azurite.account_key}
        url = f"{azurite.url}/bench"
        signed = f"{url}/new?{azurite.sas_token()}"
        env["AZCOPY_LOG_LOCATION"] = env["AZCOPY_JOB_PLAN_LOCATION"] = str(work / "azcopy")
        with part.open("rb") as source:
            container.upload_blob("blob", source)
        for _ in range(runs):
            for name in ("ours", "tuned-md5", "tuned"):
                for direction in ("up", "down") if name != "tuned-md5" else ("up",):
                    found = transfer(name, direction, url, part, env)
                    samples.setdefault((direction, name), []).append(found)
            if azcopy:
                ways = {"up": (part, signed, "LocalBlob"), "down": (signed, work / "down", "BlobLocal")}
                for direction, (source, target, way) in ways.items():
                    command = [azcopy, "copy", source, target, f"--from-to={way}"]
                    command += ["--put-md5"] if direction == "up" else []
                    samples.setdefault((direction, "azcopy"), []).append(whole(command, work, env))
    show("256 MiB against Azurite 3.37.0", samples)
    part.unlink()


def whole(command: list[object], work: Path, env: dict[str, str]) -> Sample:
    """A whole process."""
    from processes import run

    usage, _ = run([str(word) for word in command], folder=work, env=env)
    return Sample(usage.wall, usage.cpu, usage.peak_bytes)


def install_azcopy(folder: Path) -> Path | None:
    """azcopy from npm, if it can be had and runs here."""
    command = folder / "node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"
    if not command.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        npm = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            "--prefix",
            folder,
            AZCOPY,
        ]
        subprocess.run(npm, check=False, stdout=sys.stderr)
    if command.is_file():
        command.chmod(0o755)
        if subprocess.run([command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    print("azcopy does not run here (it needs libsecret-1-0)", file=sys.stderr)
    return None


def overlap(work: Path, size: str, env: dict[str, str], runs: int) -> None:
    """compute into a container whose upload takes as long as computing does."""
    models, local = work / "models" / size, work / "out" / "overlap.safetensors"
    if not models.is_dir():
        raise SystemExit(f"first make the models: benchmarks/streaming.py --sizes {size} --no-peers")
    local.parent.mkdir(parents=True, exist_ok=True)
    compute = [sys.executable, ROOT / "cli.py", "compute", "--overwrite", "--base", models / "base"]
    compute += ["--post", models / "post", "--output"]
    alone = statistics.median(whole([*compute, local], work, env).wall for _ in range(runs))
    nbytes = local.stat().st_size
    walls, uploads = [], []
    with null_server(rate=nbytes / alone) as url:
        account = url.rpartition("/")[0]
        env = {**env, "AZURE_STORAGE_ACCOUNT_URL": account, "AZURE_STORAGE_ACCOUNT_KEY": KEY}
        for _ in range(runs):
            walls.append(whole([*compute, f"{url}/new"], work, env).wall)
            uploads.append(transfer("ours", "up", url, local, env).wall)
    together, upload = statistics.median(walls), statistics.median(uploads)
    local.unlink()
    print(
        f"overlap, {size}: compute alone {alone:.2f} s, upload of its {nbytes / 1e6:.0f} MB alone "
        f"{upload:.2f} s, both {together:.2f} s = {together / max(alone, upload):.2f}× the longer"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--azurite", action="store_true")
    parser.add_argument("--overlap", metavar="SIZE", help="1.2B, of the models that streaming.py makes")
    parser.add_argument("--no-race", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench")
    given = parser.parse_args()
    work: Path = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    for name, fact in machine().items():
        print(f"{name}: {fact}")
    peers = work / "wire-peers"
    if not peers.is_dir():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            peers,
            OBSTORE,
        ]
        subprocess.run(pip, check=False, stdout=sys.stderr)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AZURE_", "PIPELINE_", "HF_"))}
    env = {**kept, "WIRE_ACCOUNT": "bench", "WIRE_KEY": KEY, "WIRE_PEERS": str(peers)}
    file = work / "wire-1g"
    if not file.is_file() or file.stat().st_size != GIB:
        with file.open("wb") as target:
            for _ in range(GIB >> 20):
                target.write(os.urandom(1 << 20))
    contenders = ["raw", "md5", "ours", "sdk", "tuned", "tuned-md5"]
    if (peers / "obstore").is_dir():
        contenders.append("obstore")
    if not given.no_race:
        race(contenders, given.runs, file, env)
    if given.azurite:
        against_azurite(given.runs, file, work, env)
    if given.overlap:
        overlap(work, given.overlap, env, given.runs)


if __name__ == "__main__":
    main()
