"""How close compute and apply come to the limit, and how far ahead of the others they are.

    .venv/bin/python benchmarks/streaming.py [--sizes 0.1B,1.2B] [--large] [--runs 5] [--no-peers]

Makes synthetic Llama-shaped bfloat16 checkpoints once, then runs whole processes in turn (limit, ours,
limit, ours, …) in one session with a warm page cache, and compares each run with the limit's run of the
same round. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from contenders import Bench
from machine import machine
from mergekit_env import install_mergekit
from processes import CommandFailed, run
from race import Outcome, Race
from report import Sections, as_json, print_machine, print_size
from rich.console import Console
from shapes import CONFIGS, MODELS, model_bytes

DEFAULT_SIZES = ("0.1B", "1.2B")
LARGE = "3B"
# Settings that would change what is measured. Without bytecode each start would compile what it imports:
# mergekit's torch as well as our modules.
PRIVATE = ("PIPELINE_", "AZURE_", "PYTHONDONTWRITEBYTECODE")
OUTPUTS_AT_ONCE = 3  # in models: the delta that apply reads, another, and what it restores
SPARE_BYTES = 5 * 10**9  # for the disk is seldom ours alone


def parse(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Compare compute and apply with the limit and with peers."
    )
    parser.add_argument("--sizes", default=",".join(DEFAULT_SIZES), help=f"of {', '.join(CONFIGS)}")
    parser.add_argument("--large", action="store_true", help=f"{LARGE} too (some 40 GB of disk)")
    parser.add_argument("--runs", type=int, default=5, help="rounds of compute and of apply")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peer-runs", type=int, default=1, help="rounds with mergekit and transformers")
    parser.add_argument("--fsync", action="store_true", help="force ours and the limit to the disk")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for all files")
    parser.add_argument("--json", type=Path, help="write every single figure there")
    options = parser.parse_args(words)
    options.sizes = [size for size in options.sizes.split(",") if size]
    if options.large and LARGE not in options.sizes:
        options.sizes.append(LARGE)
    if unknown := set(options.sizes) - set(CONFIGS):
        parser.error(f"unknown size {', '.join(sorted(unknown))}; known: {', '.join(CONFIGS)}")
    if min(options.runs, options.peer_runs) < 1:
        parser.error("at least one run of each")
    return options


def environment(*, fsync: bool) -> dict[str, str]:
    """What every contender's process sees: this process's environment without our settings, offline."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    return env | {"HF_HUB_OFFLINE": "1"} | ({"PIPELINE_FSYNC": "1"} if fsync else {})


def find_mergekit(work: Path, env: Mapping[str, str], console: Console) -> Path | None:
    """mergekit's command, or None with a word about why there is none."""
    try:
        with console.status("mergekit: its own virtual environment (minutes, once)"):
            return install_mergekit(work, env)
    except CommandFailed as error:
        console.print(f"mergekit is left out: {error}", style="yellow", highlight=False)
        return None


def measure(bench: Bench, options: argparse.Namespace, mergekit: Path | None, race: Race) -> Sections:
    """Everything about one size."""
    race.say("making the models (once)")
    run(bench.make_models(), folder=race.folder, env=race.env)
    shutil.rmtree(bench.out(""), ignore_errors=True)
    bench.out("").mkdir(parents=True)
    try:
        race.say("making the delta that apply reads, in both forms, and digests to keep")
        for command in bench.prepare():
            run(command, folder=race.folder, env=race.env)
        shutil.rmtree(bench.by_the_way)
        sections: list[tuple[str, list[Outcome]]] = []
        for job in (bench.compute(), bench.apply()):
            sections.append((job.title, race.hold(job, rounds=options.runs, warm_up=True)))
        job = bench.transfer(mergekit, peers=options.peers)
        sections.append((job.title, race.hold(job, rounds=options.peer_runs, warm_up=False)))
        return sections
    finally:
        shutil.rmtree(bench.out(""), ignore_errors=True)


def require_room(bench: Bench) -> None:
    """Stop before the disk is full. Raises CommandFailed."""
    inputs = 0 if bench.model("base").exists() else len(MODELS)
    wanted = (inputs + OUTPUTS_AT_ONCE) * model_bytes(bench.size) + SPARE_BYTES
    free = shutil.disk_usage(bench.work).free
    if free < wanted:
        raise CommandFailed(f"needs {wanted / 1e9:.0f} GB in {bench.work}, {free / 1e9:.0f} GB are free")


def main(words: list[str]) -> int:
    """Measure every size, print as it goes; returns the exit code."""
    options = parse(words)
    console = Console(width=None if sys.stdout.isatty() else 124)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    env = environment(fsync=options.fsync)
    facts = machine()
    print_machine(console, facts)
    mergekit = find_mergekit(work, env, console) if options.peers else None
    results: dict[str, Sections] = {}
    for size in options.sizes:
        bench = Bench(size, work, options.fsync)
        try:
            require_room(bench)
            with console.status(size) as status:
                race = Race(work, env, status.update)
                results[size] = measure(bench, options, mergekit, race)
        except CommandFailed as error:
            console.print(f"{size}: {error}", style="red", highlight=False)
            return 1
        print_size(console, size, results[size])
    if options.json:
        shown = {name: str(value) for name, value in vars(options).items()}
        options.json.write_text(json.dumps(as_json(facts, shown, results), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
