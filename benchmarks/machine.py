"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "numba", "blake3", "safetensors", "torch", "transformers")


def machine() -> dict[str, str]:
    """Facts of the machine and the software, by name."""
    total, free = memory_bytes("MemTotal") / 2**30, memory_bytes("MemAvailable") / 2**30
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{total:.1f} GiB, {free:.1f} GiB free",
        "load": "{:.2f} {:.2f} {:.2f} before the run".format(*os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_bytes(field: str) -> int:
    """A field of /proc/meminfo, such as MemAvailable; 0 if it is not there."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
