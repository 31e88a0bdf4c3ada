"""The program behind `forks.Forks`: it imports and compiles everything once, and forks for each order.

A program of its own, so that the threads of servers and proxies are elsewhere when it forks. It reads
commands that warm it up, an empty line, and then orders: jobs that are begun at once, and the seconds
that they have.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STREAMS = ("stdout", "stderr")
# What a run does to files, between which it may be killed.
STEPS = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

HUB_SLEEPS = ("huggingface_hub.utils._http", "huggingface_hub.file_download")

Job = dict[str, Any]


class _QuickTime:
    """The module `time`, in which sleeping takes a fiftieth."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(seconds / 50)


def _set(values: dict[str, float]) -> None:
    for path, value in values.items():
        place, _, name = path.rpartition(".")
        module = importlib.import_module(place)
        assert hasattr(module, name), path
        setattr(module, name, value)


def _know_the_hub() -> None:
    """Its client reads the environment when it is imported, so that its children have the same Hub."""
    import huggingface_hub.hf_api  # noqa: F401

    for place in HUB_SLEEPS:
        importlib.import_module(place).time = _QuickTime()  # type: ignore[attr-defined]


def _import_all() -> None:
    """What commands import when they need it."""
    import azure.storage.blob  # noqa: F401

    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        # Sources compile, and the warm-up loads what was compiled; torch is for other devices.
        if not path.stem.endswith(("_source", "torch_arithmetic")):
            importlib.import_module(".".join(part for part in parts if part != "__init__"))


def _die_at(step: int | None, commit: int | None) -> None:
    """Kill this process just before its file step or commit of that number, counted from 1."""
    steps, commits = count(1), count(1)

    def watch(event: str, found: tuple[Any, ...]) -> None:
        is_step = event in STEPS
        is_commit = event == "http.client.send" and b"comp=blocklist" in bytes(found[1][:500])
        if (is_step and next(steps) == step) or (is_commit and next(commits) == commit):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _work(job: Job, cache: str) -> Callable[[], Any]:
    """Make this process ready for the job, which is returned."""
    if job.get("env") is not None:
        os.environ.clear()
        os.environ.update(job["env"])
    if job.get("cwd"):
        os.chdir(job["cwd"])
    if "words" in job:
        import cli

        if "huggingface_hub" in sys.modules:
            from huggingface_hub import constants

            constants.HF_HUB_CACHE = constants.HUGGINGFACE_HUB_CACHE = cache  # a machine of its own
        sys.argv = ["cli.py", *job["words"]]
        return cli.main
    import pipeline

    name, arguments, options = job["call"]
    if job["step"] or job["commit"]:
        _die_at(job["step"], job["commit"])
    return lambda: getattr(pipeline, name)(*arguments, **options)


def _child(at: int, job: Job, cache: str, start: int) -> None:
    """Do the job, once all others are there too; does not return."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(STREAMS, 1):
        os.dup2(os.open(f"{name}-{at}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    code: Any = 0
    try:
        work = _work(job, cache)
        os.read(start, 1)
        work()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _fork(jobs: Sequence[Job], cache: str) -> list[int]:
    """A child for each job, none of which began before the last was there."""
    start, begin = os.pipe()
    children = []
    for at, job in enumerate(jobs):
        children.append(os.fork())
        if not children[-1]:
            os.close(begin)
            _child(at, job, cache, start)
    os.close(begin)
    os.close(start)
    return children


def _wait(child: int, deadline: float, *, trace: bool) -> int | None:
    """The child's exit code once it ended or was killed; None if it was killed and should `trace`."""
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if trace:
        os.kill(child, signal.SIGUSR1)  # say where it hangs
        time.sleep(0.5)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if trace else os.waitstatus_to_exitcode(status)


def main() -> None:
    """Serve orders until the input ends. The first ones, until an empty line, warm up this process."""
    sent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_all()
    values, hub = json.loads(sys.argv[1])
    _set(values)
    if hub:
        _know_the_hub()
    import cli

    while line := sys.stdin.readline().strip():
        cli.app(json.loads(line), standalone_mode=False)
    for line in sys.stdin:
        jobs, cap_s = json.loads(line)
        began = time.monotonic()
        cache = tempfile.mkdtemp(prefix="cache-", dir=Path.cwd())
        found = []
        for job, child in zip(jobs, _fork(jobs, cache), strict=True):
            after = job.get("after")
            code = _wait(child, began + (cap_s if after is None else after), trace=after is None)
            found.append((code, time.monotonic() - began))
        print(json.dumps(found), file=sent, flush=True)
        shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
