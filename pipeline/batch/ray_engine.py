"""Steps on the nodes of a Ray cluster; docs/scaling.md says what they need.

This process reads headers, hands out the work and commits; the nodes read, compute and stage. A node
that dies is replaced by any other, which finds what was staged and does the rest.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.batch.errands import Answer, Errand, run_errand
from pipeline.batch.specification import EVIDENCE, Specification
from pipeline.batch.splitting import PIECE_BYTES, NotSplit, SplitWalker
from pipeline.engine.schedule import Limits
from pipeline.errors import PipelineError, Unreachable, UsageError
from pipeline.progress import Progressing
from pipeline.settings import Settings
from pipeline.units import MIB, format_bytes

AUTO = "auto"
RETRIES = 8  # of a task whose process or node has died
PROCESS_BYTES = 300 * MIB  # that Python and its libraries take beside the buffers
_LOOK_S = 0.5
_CONNECT_S = 10.0


@dataclass(frozen=True)
class RayEngine:
    """An `Engine` on a cluster that this process is connected to. piece_bytes: see `SplitWalker`."""

    ray: Any
    piece_bytes: int = PIECE_BYTES

    @classmethod
    @contextmanager
    def connect(
        cls, address: str | None = None, *, piece_bytes: int = PIECE_BYTES
    ) -> Iterator[RayEngine]:
        """The engine on the cluster at `address`: that of this machine or of RAY_ADDRESS, if None.

        The nodes get this process's code. Raises UsageError without ray, Unreachable without a cluster.
        """
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise UsageError(
                "ray is not installed", hint="pip install -r requirements-ray.txt"
            ) from None
        if ray.is_initialized():  # by whoever calls us, who also ends it
            yield cls(ray, piece_bytes)
            return
        address = address or os.environ.get("RAY_ADDRESS") or AUTO
        _check(address)
        with _keeping_signals():
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env={"py_modules": [str(Path(__file__).parents[1])]},
                )
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise _unreachable(address, error) from error
        try:
            yield cls(ray, piece_bytes)
        finally:
            ray.shutdown()

    def limits(self, memory_bytes: int, workers: int | None, jobs: int) -> Limits:
        """See `Engine`: every node has all of it for each task. As many threads as the smallest has.

        Raises UsageError if no node has as much.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        workers = workers or min(cores, default=1)
        need = memory_bytes + PROCESS_BYTES
        if not any(node.get("CPU", 0) >= workers and node.get("memory", 0) >= need for node in nodes):
            raise UsageError(
                f"no node of the cluster has {workers} cores and {format_bytes(need)} of memory",
                hint="give less --memory or fewer --workers, or start larger nodes",
            )
        return Limits.of(memory_bytes, workers)

    def perform(self, spec: Specification, *, limits: Limits, progress: Progressing) -> dict[str, Any]:
        """See `Engine`. What goes to a container is split, everything else is one task."""
        spec = _settled(spec)
        errand = Errand(spec, limits.memory_bytes, limits.workers, str(Path.cwd()))
        if spec.run not in ("verify", *EVIDENCE):
            walker = SplitWalker(errand, self, limits, self.piece_bytes)
            here = replace(spec, arguments=_without(spec.arguments, "device"))
            try:
                return here.perform(limits=limits, progress=progress, walker=walker)
            except NotSplit:
                pass
        with (
            progress(f"{spec.run} {spec.id}", 0) as advance,
            closing(self.run([errand], lambda: advance(0))) as answers,
        ):
            report = next(answers)[1].check().report
        assert report is not None
        return dict(report)

    def run(self, errands: Sequence[Errand], watch: Callable[[], None]) -> Generator[tuple[int, Answer]]:
        """See `Nodes`. Raises PipelineError if the cluster loses a task again and again."""
        numbers = {self._submit(errand): number for number, errand in enumerate(errands)}
        try:
            while numbers:
                ended, _ = self.ray.wait(list(numbers), num_returns=1, timeout=_LOOK_S)
                watch()
                for each in ended:
                    number = numbers.pop(each)
                    yield number, self._answer(each, errands[number])
        finally:
            for each in numbers:
                self.ray.cancel(each, force=False)

    def _submit(self, errand: Errand) -> Any:
        piece = f", from block {errand.piece.part.first}" if errand.piece else ""
        task = self.ray.remote(run_errand).options(
            name=f"{errand.spec.run} {errand.spec.id}{piece}",
            num_cpus=errand.workers,
            num_gpus=1 if errand.spec.arguments.get("device") == "cuda" else 0,
            memory=errand.memory_bytes + PROCESS_BYTES,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        return task.remote(errand)

    def _answer(self, reference: Any, errand: Errand) -> Answer:
        """What a node has answered. Raises PipelineError if none did."""
        try:
            answer: Answer = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise PipelineError(
                f"the cluster has lost the task {RETRIES + 1} times: {type(error).__name__}",
                where=errand.spec.id,
                hint="see that nodes stay up and have the memory, and run it again: it goes on",
            ) from error
        return answer


def _check(address: str) -> None:
    """See whether anybody listens at HOST:PORT: Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise UsageError(
            f"{address} is an address of Ray Client",
            hint="give HOST:PORT of the head, from a machine of the cluster: see docs/scaling.md",
        )
    if port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"no Ray cluster is to be reached: {error}",
        where=address,
        hint="start one with `ray start --head`, or say where it is: --ray-address HOST:PORT",
    )


def _settled(spec: Specification) -> Specification:
    """`spec` as it means the same on every node. Raises UsageError if it carries a secret."""
    arguments = dict(spec.arguments)
    settings = Settings.load(store=arguments.get("store"))
    arguments["store"] = settings.store
    if spec.run in ("compute", "apply"):  # else every node would bring whole models to its disk
        arguments.setdefault("hub_cache", "off")
    _refuse_secrets(arguments, spec.id)
    return replace(spec, arguments=arguments)


def _refuse_secrets(value: Any, where: str) -> None:
    """Raises UsageError if a location has a SAS: tasks are kept and shown in many places."""
    match value:
        case str() if "://" in value and "?" in value:
            raise UsageError(
                f"{value.partition('?')[0]} has a SAS, which would travel through the cluster",
                where=where,
                hint="give it to the nodes as AZURE_STORAGE_SAS_TOKEN, or let them have an identity",
            )
        case Mapping():
            for each in value.values():
                _refuse_secrets(each, where)
        case list() | tuple():
            for each in value:
                _refuse_secrets(each, where)


def _without(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which is ours: see `commands.batch`."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
