"""What becomes of a hostile delta: an error of ours or a sound result, soon, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import deserialize, safe_open

from pipeline import apply, convert, inspect, open_delta, verify
from pipeline.checkpoints.header import read_header
from pipeline.errors import PipelineError
from pipeline.operations.apply import SAME_BASE
from pipeline.storage.local.store import LocalReader
from tests.deltas.independent_reader import read_delta, read_safetensors
from tests.fuzz.corpus import Case, Corpus

SECONDS = 5.0
MEMORY = 1 << 30
READ_BY_OTHERS = 100_000  # bytes of a file that the independent reader, which is slow, reads too
LONGEST = 11_000  # characters of a message

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Which arguments of an event are paths, and which is the folder that the first is relative to.
_CHANGES: dict[str, tuple[tuple[int, ...], int | None]] = {
    "open": ((0,), None), "os.mkdir": ((0,), 2), "os.remove": ((0,), 1), "os.rmdir": ((0,), 1),
    "os.rename": ((0, 1), None), "os.link": ((1,), None), "os.symlink": ((1,), None),
    "os.truncate": ((0,), None), "os.chmod": ((0,), None), "subprocess.Popen": ((0,), None),
}  # fmt: skip
_touched: list[str] | None = None  # paths that were written, while somebody wants to know


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _touched is None or event not in _CHANGES:
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
        return
    paths, folder = _CHANGES[event]
    home = Path.cwd()
    if folder is not None and arguments[folder] >= 0:
        home = Path(f"/proc/self/fd/{arguments[folder]}").readlink()
    found = [arguments[at] for at in paths if not isinstance(arguments[at], int)]
    _touched.extend(os.path.normpath(home / os.fsdecode(path)) for path in found)


@contextlib.contextmanager
def touched() -> Iterator[list[str]]:
    """The paths that anything in this process writes, makes or removes meanwhile."""
    global _touched
    if not getattr(sys, "_fuzz_audited", False):
        sys.addaudithook(_audit)  # for good: there is no way to remove one
        sys._fuzz_audited = True  # type: ignore[attr-defined]
    _touched = []
    try:
        yield _touched
    finally:
        _touched = None


def peak(*, reset: bool = False) -> int:
    """The most bytes that this process had in memory since the last reset."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


@dataclass
class Outcome:
    """What a case did. faults: what it should not have done."""

    case: Case
    result: str = ""
    message: str = ""
    seconds: float = 0.0
    memory: int = 0
    header: str = ""  # who takes it for a safetensors file's
    faults: list[str] = field(default_factory=list)


class Watch:
    """Feeds cases to everything that reads deltas, in a folder of its own."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self._folder, self._corpus = folder, corpus
        self._base = (corpus.base / "model.safetensors").read_bytes()
        self._post = read_safetensors((corpus.post / "model.safetensors").read_bytes())
        self._path = folder / "work" / "x.safetensors"
        self._out = folder / "work" / "out"

    def run(self, case: Case) -> Outcome:
        """Read, verify and apply `case`."""
        shutil.rmtree(self._path.parent, ignore_errors=True)
        self._path.parent.mkdir(parents=True)
        self._path.write_bytes(case.data)
        outcome = Outcome(case)
        self._compare_headers(outcome)
        path, base = str(self._path), str(self._corpus.base)
        opened = self._attempt(outcome, "open", lambda: open_delta(path).close())
        self._attempt(outcome, "inspect", lambda: str(inspect(path)).encode())
        verified = self._attempt(outcome, "verify", lambda: verify(path, workers=1))
        report = self._attempt(outcome, "apply", lambda: apply(base, [path], str(self._out), workers=1))
        if (verified and not opened) or (report and not verified):
            outcome.faults.append("a later step succeeds where an earlier one fails")
        outcome.result = "applied" if report else "verified" if verified else outcome.result
        self._look_around(outcome, report)
        if report:
            self._check_result(outcome, report)
        if verified:
            self._check_other_form(outcome)
        return outcome

    def _compare_headers(self, outcome: Outcome) -> None:
        """The safetensors library may accept what we refuse; not the other way round."""
        ours, why = True, ""
        reader = LocalReader(self._path)
        try:
            read_header(reader)
        except PipelineError as error:
            ours, why = False, error.what
        finally:
            reader.close()
        try:
            deserialize(outcome.case.data)
            theirs = True
        except BaseException:  # its panics are no Exception
            theirs = False
        outcome.header = ("both" if theirs else "ours") if ours else "theirs: " * theirs + why
        if ours and not theirs:
            outcome.faults.append("a header that the safetensors library refuses")

    def _attempt(self, outcome: Outcome, what: str, action: Callable[[], Any]) -> Any:
        """The result of `action`, or None if it raised an error of ours."""
        before = peak(reset=True)
        began = time.perf_counter()
        result: Any = None
        with touched() as paths:
            try:
                result = action() or True
            except PipelineError as error:
                outcome.result = outcome.result or type(error).__name__
                outcome.message = outcome.message or str(error)
                text = str(error)
                if len(text) > LONGEST or not text.replace("\n", "").replace("\t", "").isprintable():
                    outcome.faults.append(f"{what}: a message that nobody can print: {text[:200]!a}")
            except BaseException as error:  # that is what is looked for
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome.faults.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        seconds, memory = time.perf_counter() - began, peak() - before
        if seconds > SECONDS * (4 if what == "convert" else 1) or memory > MEMORY:  # it does four things
            outcome.faults.append(f"{what}: {seconds:.1f} s, {memory >> 20} MiB")
        outcome.seconds, outcome.memory = max(outcome.seconds, seconds), max(outcome.memory, memory)
        home = str(self._path.parent)
        strange = [path for path in paths if path != home and not path.startswith(home + os.sep)]
        outcome.faults += [f"{what}: writes {path}" for path in strange]
        return result

    def _look_around(self, outcome: Outcome, report: Any) -> None:
        """Only the output may have appeared, and it must be a model."""
        found = {path.name for path in self._path.parent.iterdir()} - {self._path.name}
        if found != ({self._out.name} if report else set()):
            outcome.faults.append(f"leaves {sorted(found)}")
        if not report:
            return
        try:
            for shard in self._out.glob("*.safetensors"):
                with safe_open(shard, "np") as opened:
                    opened.keys()
            json.loads((self._out / "config.json").read_text())
            json.loads((self._out / "paramdelta.json").read_text())
        except Exception as error:
            outcome.faults.append(f"what it wrote is no model: {error!r}")
        if any(path.is_symlink() or path.stat().st_mode & 0o111 for path in self._out.rglob("*.*")):
            outcome.faults.append("what it wrote is more than files")

    def _check_result(self, outcome: Outcome, report: Any) -> None:
        """Damage that went unnoticed must have meant nothing; and all readers must read the same."""
        found = read_safetensors((self._out / "model.safetensors").read_bytes())
        same_base = report.case == SAME_BASE
        if outcome.case.damage and not outcome.case.name.startswith("combination"):
            if not same_base or found != self._post:
                outcome.faults.append("damage went unnoticed")
        elif same_base and len(outcome.case.data) < READ_BY_OTHERS:
            try:
                _, post, _ = read_delta(outcome.case.data, self._base)
            except Exception as error:
                outcome.faults.append(f"the independent reader can't read it: {error!r}")
            else:
                if post != found:
                    outcome.faults.append("the independent reader reads something else")

    def _check_other_form(self, outcome: Outcome) -> None:
        """What is sound is sound in the other form too."""
        there, back = (self._path.with_name(name) for name in ("there.safetensors", "back.safetensors"))

        def convert_twice() -> None:
            with open_delta(str(self._path)) as delta:
                codec = delta.manifest.codec
            convert(str(self._path), str(there), codec="rans" if codec == "none" else "none", workers=1)
            convert(str(there), str(back), codec=codec, workers=1)
            verify(str(back), workers=1)

        if not self._attempt(outcome, "convert", convert_twice):
            outcome.faults.append("is sound, and can't be converted")
