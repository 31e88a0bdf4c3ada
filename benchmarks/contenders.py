"""Who takes part: for each of the three jobs the limit, ours, and the others.

compute:   delta = post − base                reads base, post; writes the delta
apply:     result = base2 + delta             reads base2, the delta; writes the result
transfer:  result = base2 + (post − base)     reads base, post, base2; writes the result

The first contender of a job is its limit: a plain copy that reads and writes the same bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from processes import Command
from shapes import MODELS, model_bytes

HERE = Path(__file__).resolve().parent
CLI = HERE.parent / "cli.py"

DELTA = "delta.safetensors"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do a job.

    commands: run one after another, and measured together. outputs: files and folders that these and
    `check` write; removed before and after every run. copies: whether it only moves bytes; such a one
    times itself if `times_itself`. check: commands of which the last prints what is wrong with the
    result. needs_bytes: memory without which it is not tried.
    """

    name: str
    commands: Sequence[Command]
    outputs: Sequence[Path]
    copies: bool = False
    times_itself: bool = False
    check: Sequence[Command] = ()
    needs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Contenders who do the same; the first is the limit that the others are compared with."""

    title: str
    contenders: Sequence[Contender]


@dataclass(frozen=True, slots=True)
class Bench:
    """The files of one size, and the options that every contender must follow."""

    size: str
    work: Path
    fsync: bool

    def model(self, name: str) -> Path:
        """The folder of base, post or base2."""
        assert name in MODELS
        return self.work / "models" / self.size / name

    def weights(self, name: str) -> list[Path]:
        """A model's weight files."""
        return sorted(self.model(name).glob("*.safetensors"))

    @property
    def delta(self) -> Path:
        """The delta that `apply` reads, made once by `prepare`."""
        return self.out(DELTA)

    @property
    def packed(self) -> Path:
        """The same delta, packed."""
        return self.out("packed.safetensors")

    def out(self, name: str) -> Path:
        """Where something that is written goes."""
        return self.work / "out" / self.size / name

    def make_models(self) -> Command:
        """The command that makes the models unless they are there."""
        return self._script("synthesise.py", self.size, self.model("base").parent)

    def prepare(self) -> list[Command]:
        """The commands that make the delta that `apply` reads, in both forms, and keep all digests."""
        return [
            [*self._compute(self.delta), *self._kept],
            self._compute(self.packed, "rans"),
            [*self._apply("base2", self.delta, self.by_the_way), *self._kept],
        ]

    @property
    def by_the_way(self) -> Path:
        """What `prepare` leaves that nobody reads."""
        return self.out("prepared")

    def compute(self) -> Job:
        """The first half."""
        ours, copy, restored = self.out("ours.safetensors"), self.out("copy"), self.out("restored")
        nbytes = self.delta.stat().st_size
        inputs = [self.weights("base"), self.weights("post")]
        check = (
            self._apply("base", ours, restored),
            self._script("check.py", "same", self.model("post"), restored),
        )
        return Job(
            "compute: post − base",
            [
                self._limit(inputs, copy, nbytes),
                Contender("ours: cli.py compute", [self._compute(ours)], [ours, restored], check=check),
                Contender(
                    "ours, digests kept",
                    [[*self._compute(ours), *self._kept]],
                    [ours, restored],
                    check=check,
                ),
                Contender("ours, packed", [self._compute(ours, "rans")], [ours, restored], check=check),
                *self._other_copies(inputs, copy, nbytes),
            ],
        )

    def apply(self) -> Job:
        """The second half."""
        ours, copy = self.out("ours"), self.out("copy")
        nbytes = sum(path.stat().st_size for path in self.weights("base2"))
        inputs = [[self.delta], self.weights("base2")]
        return Job(
            "apply: base2 + delta",
            [
                self._limit(inputs, copy, nbytes),
                Contender(
                    "ours: cli.py apply",
                    [self._apply("base2", self.delta, ours)],
                    [ours],
                    check=[self._check_sum(ours)],
                ),
                Contender(
                    "ours, digests kept",
                    [[*self._apply("base2", self.delta, ours), *self._kept]],
                    [ours],
                    check=[self._check_sum(ours)],
                ),
                Contender(
                    "ours, packed delta",
                    [self._apply("base2", self.packed, ours)],
                    [ours],
                    check=[self._check_sum(ours)],
                ),
                *self._other_copies(inputs, copy, nbytes),
            ],
        )

    def transfer(self, mergekit: Path | None, *, peers: bool) -> Job:
        """Both halves, and the others who do the whole in one go; `mergekit` is its command."""
        ours, copy, delta = self.out("ours"), self.out("copy"), self.out("ours.safetensors")
        nbytes = sum(path.stat().st_size for path in self.weights("base2"))
        inputs = [self.weights(name) for name in MODELS]
        contenders = [
            self._limit(inputs, copy, nbytes),
            Contender(
                "ours: compute, then apply",
                [self._compute(delta), self._apply("base2", delta, ours)],
                [delta, ours],
                check=[self._check_sum(ours)],
            ),
            self._script_for("ours, in one pass", "one_pass.py", ours),
            self._script_for("ours, in one pass, digests kept", "one_pass.py", ours, self._digests),
        ]
        if mergekit is not None:
            contenders.append(self._mergekit(mergekit))
        if peers:
            whole = self._script_for("whole models in memory", "whole_model.py", self.out("whole"))
            contenders.append(replace(whole, needs_bytes=4 * model_bytes(self.size)))
        return Job("transfer: base2 + (post − base)", contenders)

    def _compute(self, delta: Path, codec: str = "none") -> Command:
        base, post = self.model("base"), self.model("post")
        models: Command = ["--base", base, "--post", post]
        return [sys.executable, CLI, "compute", *models, "--output", delta, "--codec", codec]

    def _apply(self, base: str, delta: Path, result: Path) -> Command:
        model = self.model(base)
        return [sys.executable, CLI, "apply", "--base", model, "--delta", delta, "--output", result]

    def _limit(
        self, inputs: Sequence[Sequence[Path]], output: Path, nbytes: int, threads: int = 1
    ) -> Contender:
        reads = [word for files in inputs for word in ("--read", *files)]
        command: Command = [
            sys.executable, "-I", "-S", HERE / "plain_copy.py",
            *reads, "--write", output, "--bytes", str(nbytes), "--threads", str(threads),
            *(["--fsync"] if self.fsync else []),
        ]  # fmt: skip
        name = "limit: plain read + write" if threads == 1 else f"the same, {threads} threads"
        return Contender(name, [command], [output], copies=True, times_itself=True)

    def _other_copies(
        self, inputs: Sequence[Sequence[Path]], output: Path, nbytes: int
    ) -> list[Contender]:
        """Other ways to move the bytes, as witnesses that the limit is a fair one."""
        others = [self._limit(inputs, output, nbytes, threads=2)]
        if not self.fsync:
            *first, last = inputs
            read: Command = ["sh", "-c", 'cat "$@" > /dev/null', "sh", *chain(*first)]
            write: Command = ["sh", "-c", 'mkdir "$0" && cp --reflink=never "$@" "$0"', output, *last]
            others.append(Contender("the same by cat and cp", [read, write], [output], copies=True))
        return others

    def _mergekit(self, command: Path) -> Contender:
        """Task arithmetic around the old base: base + (base2 − base) + (post − base)."""
        result, config = self.out("mergekit"), self.out("mergekit.yml")
        models = [
            {"model": str(self.model(name)), "parameters": {"weight": 1.0}} for name in ("base2", "post")
        ]
        merge = {
            "merge_method": "task_arithmetic",
            "base_model": str(self.model("base")),
            "models": models,
            "dtype": "bfloat16",
        }
        config.write_text(json.dumps(merge, indent=2))  # JSON is YAML
        return Contender(
            "mergekit 0.1.5 task_arithmetic",
            [[command, config, result, "--quiet", "--no-copy-tokenizer"]],
            [result],
            check=[self._check_sum(result)],
            needs_bytes=3 * model_bytes(self.size),
        )

    @property
    def _digests(self) -> Path:
        """Where `prepare` keeps those of all models."""
        return self.out("digests")

    @property
    def _kept(self) -> Command:
        """What lets ours take them from there."""
        return ["--digest-cache", self._digests]

    def _script_for(self, name: str, script: str, result: Path, *options: str | Path) -> Contender:
        """A script that takes the three models, and does the whole job."""
        models = [self.model(model) for model in MODELS]
        command = self._script(script, *models, result, *options)
        return Contender(name, [command], [result], check=[self._check_sum(result)])

    def _check_sum(self, result: Path) -> Command:
        return self._script("check.py", "sum", *(self.model(name) for name in MODELS), result)

    @staticmethod
    def _script(name: str, *words: str | Path) -> Command:
        return [sys.executable, HERE / name, *words]
