"""What a command costs before it does anything: its help, what its operation imports, a whole short run.

    python benchmarks/start_up.py [--runs 7] [--json FILE]

Prints a table of medians, in milliseconds. "help" is `cli.py COMMAND --help`; "import" is a process that
imports what the command's function needs, less one that does nothing; "of it" are the packages that
take most of that, as `-X importtime` has them. At the end, whole runs on the example family.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from machine import machine
from processes import Usage, run

ROOT = Path(__file__).resolve().parent.parent
FAMILY = ROOT / "examples" / "family"
# What each command imports first, a name of `pipeline`.
OPERATIONS = {
    "compute": "compute", "apply": "apply", "batch": "run_batch", "inspect": "inspect",
    "verify": "verify", "combine": "combine", "convert": "convert", "list": "list_store",
    "copy": "copy", "delete": "delete", "clean": "clean", "push": "push", "doctor": "doctor",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One command's figures, in milliseconds. heaviest: of the import."""

    command: str
    help_cpu_ms: float
    help_wall_ms: float
    import_cpu_ms: float
    heaviest: str


def measure(words: Sequence[str | Path], *, runs: int, folder: Path) -> tuple[float, float]:
    """Medians of CPU and wall, in milliseconds, of a Python process after one that is not counted."""
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "AZURE_"))
    }
    command = [sys.executable, *words]
    used: list[Usage] = [run(command, folder=folder, env=env)[0] for _ in range(runs + 1)][1:]
    return 1000 * median(each.cpu for each in used), 1000 * median(each.wall for each in used)


def heaviest(program: str) -> str:
    """The packages that take longest of what a program imports, each with its own modules only."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    spent: Counter[str] = Counter()
    for micros, package in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +(\w+)", done.stderr):
        spent[package] += int(micros)
    return ", ".join(f"{package} {micros / 1000:.0f}" for package, micros in spent.most_common(4))


def rows(runs: int, folder: Path) -> list[Row]:
    """Every command's figures."""
    idle, _ = measure(["-c", "pass"], runs=runs, folder=folder)
    found = []
    for command, name in OPERATIONS.items():
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline import {name}"
        cpu, wall = measure([ROOT / "cli.py", command, "--help"], runs=runs, folder=folder)
        imported, _ = measure(["-c", program], runs=runs, folder=folder)
        found.append(Row(command, cpu, wall, imported - idle, heaviest(program)))
    return found


def whole_runs(runs: int, folder: Path) -> dict[str, tuple[float, float]]:
    """CPU and wall of short commands from start to exit, by command line."""
    delta = folder / "d.safetensors"
    base, post, out = FAMILY / "base-v1", FAMILY / "post-v1", folder / "out"
    lines: dict[str, tuple[str | Path, ...]] = {
        "compute": ("--base", base, "--post", post, "--output", delta, "--overwrite"),
        "inspect": (delta,),
        "apply": ("--base", base, "--delta", delta, "--output", out, "--overwrite"),
    }
    return {
        name: measure([ROOT / "cli.py", name, *words], runs=runs, folder=folder)
        for name, words in lines.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="of each, after one that is not counted")
    parser.add_argument("--json", type=Path, help="the figures for programs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        table, short = rows(options.runs, Path(name)), whole_runs(options.runs, Path(name))
    print("\n".join(f"{key}: {value}" for key, value in machine().items()), "\n")
    print(
        "| command | help, CPU ms | help, wall ms | import, CPU ms | of it, ms |\n|---|---|---|---|---|"
    )
    for row in table:
        figures = f"{row.help_cpu_ms:.0f} | {row.help_wall_ms:.0f} | {row.import_cpu_ms:.0f}"
        print(f"| {row.command} | {figures} | {row.heaviest} |")
    print("\n| whole run, models of 2.8 MB | CPU ms | wall ms |\n|---|---|---|")
    for command, (cpu, wall) in short.items():
        print(f"| {command} | {cpu:.0f} | {wall:.0f} |")
    if options.json:
        kept = {"machine": machine(), "commands": [asdict(row) for row in table], "runs": short}
        options.json.write_text(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()
