"""Which process this is, in words that another run can check: is the one that wrote them still there?"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_ENDED = ("Z", "X")  # states of a process that has ended and that nobody has asked after yet


def this_process() -> str:
    """A text that names this process and no other, ever; empty where the system doesn't tell."""
    try:
        return _describe(os.getpid())
    except OSError:
        return ""


def has_ended(process: str) -> bool:
    """Whether `process` ran on this machine and is known to have ended; False if in doubt."""
    machine, _, rest = process.rpartition("/")
    pid = rest.partition("@")[0]
    try:
        if not pid.isdecimal() or machine != _machine():
            return False
        os.kill(int(pid), 0)  # /proc may hide other people's processes: this does not
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    try:
        return _describe(int(pid)) != process
    except OSError:
        return False


def _describe(pid: int) -> str:
    """The process of that number: numbers are used again, but not with the same moment of start."""
    stat = (_PROC / str(pid) / "stat").read_text()
    fields = stat.rpartition(")")[2].split()  # what stands before is its name, of any characters
    state, started = fields[0], fields[19]
    return "" if state in _ENDED else f"{_machine()}/{pid}@{started}"


def _machine() -> str:
    """This start of this machine, and the numbering of its processes: a container has its own."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
