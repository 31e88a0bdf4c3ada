"""The kernels' machine code: kept between processes, and never trusted to be whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import numpy as np
from pipeline.tensors import kernels
values = np.zeros(2, np.float32)
kernels.widen_bf16(np.array([0x3F80, 0xC000], np.uint16), values)
assert values.tolist() == [1, -2]
print("compiled" if "numba" in sys.modules else "kept")
"""


def run(cache: Path) -> str:
    """What a process of its own says of where its kernels came from."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.mark.slow
def test_kernels_are_compiled_once_and_again_if_what_was_kept_is_damaged(tmp_path):
    """An empty file is what a full disk or a power cut leaves."""
    mine = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    run(mine)
    shutil.copytree(mine / "paramdelta", tmp_path / "paramdelta")
    assert run(tmp_path) == "kept"
    for kept in tmp_path.rglob("*.o"):
        kept.write_bytes(b"")
    assert run(tmp_path) == "compiled"
    assert run(tmp_path) == "kept"
