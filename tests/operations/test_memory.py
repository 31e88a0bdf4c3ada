"""Peak memory is that of the budget, whatever the model's size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).resolve().parents[1]
MIB = 1 << 20

# VmHWM is the peak of this program alone; ru_maxrss would count that of the one that started it.
PROGRAM = """
import json, re, sys
from pathlib import Path
from pipeline import apply, compute, verify

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

what, small, large = json.loads(sys.argv[1])
run = {
    "compute": lambda f: compute(f + "/base", f + "/post", f + "/out", overwrite=True),
    "apply": lambda f: apply(f + "/new", [f + "/delta.safetensors"], f + "/out-model", overwrite=True),
    "verify a delta": lambda f: verify(f + "/delta.safetensors", base=f + "/base", post=f + "/post"),
    "verify a model": lambda f: verify(f + "/result"),
}[what]
run(small)
before = peak()
run(large)
print(json.dumps([before, peak()]))
"""


def write_model(folder: Path, mib: int, fill: int) -> None:
    """A bfloat16 model of that many MiB, in tensors of at most 64 MiB."""
    entries: dict[str, object] = {}
    end = 0
    while end < mib * MIB:
        size = min(64 * MIB, mib * MIB - end)
        entries[f"w{end // MIB:04d}"] = {
            "dtype": "BF16",
            "shape": [size // 2],
            "data_offsets": [end, end + size],
        }
        end += size
    header = json.dumps(entries).encode()
    pattern = bytes((n * fill) % 251 & 0x7F for n in range(1 << 16)) * 16
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(mib):
            file.write(pattern)
    (folder / "config.json").write_text("{}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small and a large family: 8 and 80 MiB."""
    folders = []
    for mib in (8, 80):
        folder = tmp_path_factory.mktemp(f"models-{mib}")
        for name, fill in (("base", 7), ("post", 11), ("new", 13)):
            write_model(folder / name, mib, fill)
        delta = str(folder / "delta.safetensors")
        pipeline.compute(str(folder / "base"), str(folder / "post"), delta)
        pipeline.apply(str(folder / "new"), [delta], str(folder / "result"))
        folders.append(str(folder))
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("what", ["compute", "apply", "verify a delta", "verify a model"])
def test_ten_times_the_model_takes_no_more_memory(models: list[str], what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([what, *models])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout)
    assert large - small < 30 * MIB
    assert large < 500 * MIB
