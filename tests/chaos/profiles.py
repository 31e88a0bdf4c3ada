"""What goes wrong in a run, and how often: profiles of faults by chance."""

from __future__ import annotations

from dataclasses import dataclass

from tests.servers.faults import Fault, Kind

_BROKEN: tuple[Kind, ...] = ("reset", "cut", "reset-request", "cut-request", "lost", "short")

# What any network and any service do now and then, and a run has to get over.
WIRE = (
    *(Fault(kind) for kind in _BROKEN),
    Fault("flip"),
    Fault("flip-request"),
    Fault("delay", seconds=0.2),
    Fault("stall", seconds=0.2),
    Fault("slow", bytes_per_s=1 << 20),
    Fault("status", status=500),
    Fault("status", status=500, code="OperationTimedOut"),
    Fault("status", status=503),
    Fault("status", status=503, retry_after=1),
    Fault("status", status=429),
    Fault("status", status=429, retry_after=1, as_date=True),
)
DENIED = (Fault("status", status=401), Fault("status", status=403), Fault("status", status=400))


@dataclass(frozen=True, slots=True)
class Profile:
    """Faults, and the share of runs that must succeed all the same."""

    faults: tuple[Fault, ...]
    rate: float
    successes: float


PROFILES = {
    "wire": Profile(WIRE, 0.05, 0.95),
    "throttled": Profile((Fault("status", status=503),), 0.3, 1.0),
    "denied": Profile((*WIRE, *DENIED), 0.05, 0.0),
}
