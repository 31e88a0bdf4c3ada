"""TIES of three deltas beside their plain sum: seconds and peak memory of whole processes.

    python benchmarks/fusion.py [--models build/bench/models/1.2B] [--rounds 1] [--method ties]

Needs the models that benchmarks/streaming.py makes (base, post, base2), and room for three deltas of
them and one result, which are removed in the end. The deltas are post - base, base2 - base and post -
base2. What is printed last are medians of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from processes import Usage, run

ROOT = Path(__file__).resolve().parents[1]
CLI = [sys.executable, str(ROOT / "cli.py")]
PAIRS = (("base", "post"), ("base", "base2"), ("base2", "post"))


def main() -> None:
    """Print a line for each run, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=ROOT / "build/bench/models/1.2B")
    parser.add_argument("--rounds", type=int, default=1, help="of each, in turn")
    parser.add_argument("--method", default="ties")
    parser.add_argument("--density", default="0.2")
    options = parser.parse_args()
    models = options.models.resolve()
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as work:
        folder = Path(work)
        deltas = []
        for number, (base, post) in enumerate(PAIRS):
            delta = folder / f"{number}.safetensors"
            sides = ["--base", str(models / base), "--post", str(models / post)]
            run([*CLI, "compute", *sides, "--output", str(delta)], folder=folder, env=env)
            deltas += ["--delta", str(delta)]
        common = [*CLI, "apply", "--base", str(models / "base"), *deltas, "--scale", "0.5"]
        fused = ["--method", options.method, "--density", options.density]
        found: dict[str, list[Usage]] = {"linear": [], options.method: []}
        for _ in range(options.rounds):
            for name, words in (("linear", []), (options.method, fused)):
                output = folder / "out"
                usage, _ = run([*common, *words, "--output", str(output)], folder=folder, env=env)
                shutil.rmtree(output)
                found[name].append(usage)
                print(
                    f"{name}: {usage.wall:.1f} s, CPU {usage.cpu:.1f} s, {usage.peak_bytes / 1e6:.0f} MB"
                )
        wall, cpu = (
            median(
                getattr(ours, figure) / getattr(plain, figure)
                for ours, plain in zip(found[options.method], found["linear"], strict=True)
            )
            for figure in ("wall", "cpu")
        )
        print(f"{options.method} takes {wall:.2f} × the time of linear, {cpu:.2f} × the CPU time")


if __name__ == "__main__":
    (ROOT / "build").mkdir(exist_ok=True)
    main()
