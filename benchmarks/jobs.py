"""Steps at the same time, where the store is slow: four deltas computed with --jobs 1, 2 and 4.

    python benchmarks/jobs.py [--mib 48] [--rate 20]

Models and deltas lie in Azurite, behind a proxy that paces every body (`--rate`, MB/s, for each
connection). Memory is one budget whatever the jobs; the peak is the whole process's.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

PROGRAM = """
import json, re, sys, time
from pathlib import Path
from pipeline import run_batch
began = time.monotonic()
report = run_batch(sys.argv[1], jobs=int(sys.argv[2]))
seconds = time.monotonic() - began
assert report.ok, [step.error for step in report.steps]
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
print(json.dumps([seconds, peak]))
"""
STEPS = 4


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=48, help="size of each model")
    parser.add_argument("--rate", type=int, default=20, help="MB/s of each connection")
    options = parser.parse_args()
    from models import layered_state, write_model
    from servers.azurite import Azurite
    from servers.fault_proxy import FaultProxy
    from servers.faults import Fault

    with (
        tempfile.TemporaryDirectory() as folder,
        Azurite() as azurite,
        FaultProxy(azurite.url) as proxy,
    ):
        container = azurite.create_container(f"bench-{secrets.token_hex(4)}")
        state = layered_state(options.mib // 8, 8 << 20, 0)
        for name, factor in (("base", 1.0), ("post", 1.01)):
            made = write_model(Path(folder) / name, {key: t * factor for key, t in state.items()})
            for path in made.iterdir():
                container.upload_blob(f"{name}/{path.name}", path.read_bytes())
        proxy.rule = lambda method, target: Fault("slow", bytes_per_s=options.rate * 1_000_000)
        place = f"az://{container.container_name}"
        connection = azurite.connection_string.replace(azurite.url, proxy.url)
        print(f"{STEPS} deltas of models of {options.mib} MiB, {options.rate} MB/s a connection")
        print("jobs  seconds  of one job's  peak MB")
        alone = None
        for jobs in (1, 2, 4):
            steps = [
                {
                    "id": f"d{number}", "run": "compute", "base": f"{place}/base", "codec": "none",
                    "post": f"{place}/post", "output": f"{place}/{jobs}/{number}.safetensors",
                }
                for number in range(STEPS)
            ]  # fmt: skip
            config = Path(folder) / f"{jobs}.json"
            config.write_text(json.dumps({"steps": steps, "report": f"{folder}/{jobs}-report.json"}))
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(config), str(jobs)],
                cwd=ROOT, check=True, capture_output=True, text=True,
                env={**os.environ, "AZURE_STORAGE_CONNECTION_STRING": connection},
            )  # fmt: skip
            seconds, peak = json.loads(done.stdout)
            alone = alone or seconds
            print(f"{jobs:4}  {seconds:7.1f}  {seconds / alone:12.2f}  {peak / 1e6:7.0f}", flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
