"""A program that runs compute and apply in children, and kills them where it is told to.

Everything is imported and compiled once; each run is a fork of that, so that a kill after 30 ms meets
the work and not the start-up. Not a test module: `Zygote` starts this file as a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

STEPS = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


class Zygote:
    """Runs operations in processes that may be killed."""

    def __init__(self, warm_up: list[Any]) -> None:
        import pipeline

        root = str(Path(pipeline.__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.run(*warm_up)

    def run(
        self,
        *call: Any,
        after: float | None = None,
        step: int | None = None,
        commit: int | None = None,
        **options: Any,
    ) -> tuple[int, float]:
        """Exit code (-9 if killed) and seconds of `call`: a function's name, its arguments, `options`.

        The child is killed `after` seconds, or before file step or Azure commit number n; else not.
        """
        assert self._process.stdin
        assert self._process.stdout
        order = json.dumps([call, options, after, step, commit])
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        code, seconds = json.loads(self._process.stdout.readline())
        return code, seconds

    def __enter__(self) -> Zygote:
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


def _die_at(step: int | None, commit: int | None) -> None:
    """Kill this process just before its file step or commit of that number, counted from 1."""
    steps, commits = count(1), count(1)

    def watch(event: str, found: tuple[Any, ...]) -> None:
        is_step = event in STEPS
        is_commit = event == "http.client.send" and b"comp=blocklist" in bytes(found[1][:500])
        if (is_step and next(steps) == step) or (is_commit and next(commits) == commit):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _run(call: list[Any], options: dict[str, Any]) -> None:
    import pipeline

    what, *arguments = call
    getattr(pipeline, what)(*arguments, **options)


def main() -> None:
    """Serve orders until the input ends. The first one warms up and is run in this very process."""
    import azure.storage.blob  # noqa: F401

    sent = sys.stdout
    for number, line in enumerate(sys.stdin):
        call, options, after, step, commit = json.loads(line)
        started = time.monotonic()
        if not number:
            _run(call, options)
            print(json.dumps([0, time.monotonic() - started]), file=sent, flush=True)
            continue
        child = os.fork()
        if not child:
            code = 1
            try:
                _die_at(step, commit)
                _run(call, options)
                code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(code)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found = [os.waitstatus_to_exitcode(status), time.monotonic() - started]
        print(json.dumps(found), file=sent, flush=True)


if __name__ == "__main__":
    main()
