"""How long the catalogue of a container takes: 200 deltas of 399 tensors each, in Azurite.

    python benchmarks/catalog.py [--deltas 200] [--runs 3]

Whole processes of `cli.py catalog`, from start to exit.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TENSORS = 399  # of a model of 44 layers


def main() -> None:
    """Print the seconds of each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--deltas", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    import torch
    from models import write_model
    from servers.azurite import Azurite

    from pipeline import compute

    with tempfile.TemporaryDirectory() as folder, Azurite() as azurite:
        for name, value in (("base", 1.0), ("post", 1.25)):
            state = {
                f"model.layers.{n // 9}.w{n % 9}": torch.full((8, 8), value) for n in range(TENSORS)
            }
            write_model(Path(folder) / name, state)
        delta = Path(folder, "d.safetensors")
        compute(str(Path(folder, "base")), str(Path(folder, "post")), str(delta))
        container = azurite.create_container(f"bench-{secrets.token_hex(4)}")
        for number in range(options.deltas):
            container.upload_blob(f"deltas/{number:04}.safetensors", delta.read_bytes())
        env = {**os.environ, "AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
        place = f"az://{container.container_name}"
        for run in range(options.runs):
            site = str(Path(folder, f"site-{run}"))
            command = [
                sys.executable,
                str(ROOT / "cli.py"),
                "catalog",
                "--store",
                place,
                "--output",
                site,
            ]
            began = time.monotonic()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - began
            page = Path(site, "index.html").stat().st_size
            print(f"{options.deltas} deltas of {TENSORS} tensors: {seconds:.1f} s, {page:,} bytes")


if __name__ == "__main__":
    main()
