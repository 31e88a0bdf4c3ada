"""A real Ray cluster of two nodes on this machine: each with a raylet and processes of its own.

Everything listens on 127.0.0.1, nothing is reported to anybody, and what it writes goes with its folder.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.units import GIB, MIB

PATIENCE_S = 60.0
_AT_WORK = ("ray::compute", "ray::apply")  # how Ray calls the processes that have a task
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray looks for an address that others can reach
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_health_check_period_ms": "500",  # so that a stopped node is missed soon
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class RayCluster:
    """Two nodes, of one task each at a time: the head, where the tests are connected, and another."""

    cluster: Any
    folder: Path
    credentials: Mapping[str, str]
    second: Any = field(default=None)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def start_second(self) -> None:
        """Have the second node, if it was stopped."""
        if self.second is None:
            self.second = self._add()

    def stop_second(self) -> None:
        """End all processes of the second node, with SIGKILL."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def start_head(self) -> None:
        self._add()

    def _add(self) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.credentials.items():
                patch.setenv(name, value)
            return self.cluster.add_node(
                node_ip_address="127.0.0.1",
                include_dashboard=False,
                num_cpus=1,
                memory=GIB,
                object_store_memory=80 * MIB,
            )

    def processes(self) -> list[psutil.Process]:
        """All that the nodes are made of: those that have this cluster's folder or Ray's titles."""
        found = psutil.Process().children(recursive=True)
        return [each for each in found if "ray" in _title(each)]

    def tasks(self) -> list[psutil.Process]:
        """The processes that are at work on a task now, of either node."""
        return [each for each in self.processes() if _title(each).startswith(_AT_WORK)]

    def tasks_of_second(self) -> list[psutil.Process]:
        """Those of the second node."""
        raylet = psutil.Process(self.second.all_processes["raylet"][0].process.pid)
        return [each for each in raylet.children(recursive=True) if each in self.tasks()]


def wait_for(condition: Callable[[], Any]) -> Any:
    """What `condition` gives, once that is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return found


@contextmanager
def ray_cluster(credentials: Mapping[str, str]) -> Iterator[RayCluster]:
    """The cluster, whose nodes alone have `credentials` in their environment."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: its sockets have long names in it
    Path(folder, "ray").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_ENVIRONMENT, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        made = RayCluster(Cluster(), Path(folder), credentials)
        try:
            made.start_head()
            made.start_second()
            yield made
        finally:
            made.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def listening(process: psutil.Process) -> list[Any]:
    """The sockets on which a process waits for others."""
    return [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
