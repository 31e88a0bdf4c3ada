"""Progress: bars where somebody looks, one for each work that takes long; else nothing."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pipeline
from pipeline.progress import bars

ROOT = Path(pipeline.__file__).resolve().parents[1]
PROGRAM = """
import threading
from pipeline import progress
progress.QUIET_S = 0.0
with progress.bars() as shown:
    with shown("first work", 4 << 20) as one, shown("second work", 8 << 20) as two:
        for _ in range(4):
            one(1 << 20); two(1 << 20)
            threading.Event().wait(0.2)
    with progress.bar("third", 100) as third:
        pass
"""


def on_a_terminal(program: str) -> str:
    """What the program shows on a terminal as its standard error."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # nobody has the other end any more
                return
            if not data:
                return
            shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stderr=theirs, env=environment, check=True, timeout=60
    )
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))


def test_each_work_under_way_has_a_bar_with_speed_and_time_left() -> None:
    shown = on_a_terminal(PROGRAM)
    frame = next(part for part in reversed(shown.split("first work")) if "second work" in part)
    assert re.search(r"\d\.\d/4\.0 MiB", shown)
    assert re.search(r"\d\.\d/8\.0 MiB", frame)
    assert re.search(r"MiB/s|MB/s", shown)
    assert re.search(r"0:00:0\d", shown)
    assert "third" not in shown  # it was over before anybody could have wondered


def test_where_nobody_looks_nothing_is_shown(capfd) -> None:
    with bars() as shown, shown("work", 10) as advance:
        advance(10)
    assert capfd.readouterr() == ("", "")
