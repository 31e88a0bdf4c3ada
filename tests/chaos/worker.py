"""A program that runs `cli.py` in children, each a fork of what is imported and compiled once.

Not a test module: `Worker` starts this file as a process of its own, so that the threads of servers and
proxies are elsewhere when it forks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CAP_S = 60.0

# What makes small models behave as large ones do, and quickly: many blocks, short waits.
SMALL_AND_QUICK = {
    "pipeline.storage.azure.writing.BLOCK_BYTES": 128 << 10,
    "pipeline.storage.azure.reading.RANGE_BYTES": 128 << 10,
    "pipeline.storage.retry.FIRST_WAIT_S": 0.01,
    "pipeline.storage.retry.LONGEST_WAIT_S": 0.1,
    "pipeline.storage.azure.publishing.SMALL_BYTES": 32 << 10,
}
STREAMS = ("stdout", "stderr")
HUB_SLEEPS = ("huggingface_hub.utils._http", "huggingface_hub.file_download")


@dataclass(frozen=True, slots=True)
class Done:
    """How one command ended. code: its exit code, None if it had to be killed."""

    code: int | None
    seconds: float
    output: str
    errors: str


class Worker:
    """Runs commands, one at a time, in `folder`; the environment is that of its start.

    warm_up: commands that compile and load what later ones need. They may not touch the network.
    """

    def __init__(self, folder: Path, env: dict[str, str], warm_up: Sequence[Sequence[str]]) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "warm-up").open("w"),
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )
        assert self._process.stdin
        self._process.stdin.write("".join(json.dumps(words) + "\n" for words in warm_up) + "\n")

    def run(self, *words: str, cap_s: float = CAP_S) -> Done:
        """Run `cli.py` with these words."""
        return self.race([words], cap_s=cap_s)[0]

    def race(self, commands: Sequence[Sequence[str]], *, cap_s: float = CAP_S) -> list[Done]:
        """Run `cli.py` with each of these, all at once."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([commands, cap_s]) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        return [
            Done(code, seconds, *((self._folder / f"{name}-{at}").read_text() for name in STREAMS))
            for at, (code, seconds) in enumerate(found)
        ]

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


class _QuickTime:
    """The module `time`, in which sleeping takes a fiftieth."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(seconds / 50)


def _make_quick() -> None:
    for path, value in SMALL_AND_QUICK.items():
        place, _, name = path.rpartition(".")
        with contextlib.suppress(ImportError):
            setattr(importlib.import_module(place), name, value)
    for place in HUB_SLEEPS:
        with contextlib.suppress(ImportError):
            importlib.import_module(place).time = _QuickTime()  # type: ignore[attr-defined]


def _import_all() -> None:
    """What commands import when they need it."""
    import azure.storage.blob  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401

    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        # Sources compile, and the warm-up loads what was compiled; torch is for other devices.
        if not path.stem.endswith(("_source", "torch_arithmetic")):
            importlib.import_module(".".join(part for part in parts if part != "__init__"))


def _child(at: int, words: Sequence[str], cache: str, start: int) -> None:
    """Be `cli.py` with these words, once all others are there too; does not return."""
    for number, name in enumerate(STREAMS, 1):
        os.dup2(os.open(f"{name}-{at}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    from huggingface_hub import constants

    constants.HF_HUB_CACHE = constants.HUGGINGFACE_HUB_CACHE = cache  # a machine of its own
    import cli

    sys.argv = ["cli.py", *words]
    os.read(start, 1)
    code: Any = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _fork(commands: Sequence[Sequence[str]], cache: str) -> list[int]:
    """A child for each command, none of which began before the last was there."""
    start, begin = os.pipe()
    children = []
    for at, words in enumerate(commands):
        children.append(os.fork())
        if not children[-1]:
            os.close(begin)
            _child(at, words, cache, start)
    os.close(begin)
    os.close(start)
    return children


def _wait(child: int, deadline: float) -> int | None:
    """The child's exit code, None if it had to be killed at the end of its time."""
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGUSR1)  # say where it hangs
    time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    """Serve orders until the input ends. The first ones, until an empty line, warm up this process."""
    sent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_all()
    _make_quick()
    import cli

    while line := sys.stdin.readline().strip():
        cli.app(json.loads(line), standalone_mode=False)
    for line in sys.stdin:
        commands, cap_s = json.loads(line)
        began = time.monotonic()
        cache = tempfile.mkdtemp(prefix="cache-", dir=Path.cwd())
        found = []
        for child in _fork(commands, cache):
            found.append((_wait(child, began + cap_s), time.monotonic() - began))
        print(json.dumps(found), file=sent, flush=True)
        shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
