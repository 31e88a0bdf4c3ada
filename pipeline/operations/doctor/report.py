"""doctor: whether a run would find what it needs, checked in the order in which it would need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.operations.doctor.machine import check_disk, check_kernels, check_memory, check_versions
from pipeline.operations.doctor.services import (
    Skipped,
    check_account,
    check_blob,
    check_container,
    check_credentials,
    check_hub,
)
from pipeline.redaction import redact
from pipeline.settings import Settings
from pipeline.storage.locations import parse_store

Status = Literal["ok", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and of a problem, what to do and its exit code."""

    name: str
    status: Status
    detail: str
    hint: str | None = None
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """All checks, in order. store: where plain delta names lie."""

    store: str
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not any(check.status == "problem" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """The code of the first problem, else 0."""
        return next((check.exit_code for check in self.checks if check.status == "problem"), 0)


def doctor(*, store: str | None = None) -> Health:
    """Check this machine, the store and the Hub. A problem stops only the checks that need its cause.

    In a container a small blob is written under a random name, read, and deleted again. Raises
    UsageError for a store that cannot be one.
    """
    settings = Settings.load(store=store)
    where = parse_store(settings.store)
    found: list[Check] = []

    def check(name: str, look: Callable[[], str], *needs: str) -> None:
        found.append(_look(name, look, [each for each in found if each.name in needs]))

    check("versions", check_versions)
    check("memory", check_memory)
    check("disk", lambda: check_disk(where))
    check("credentials", lambda: check_credentials(where, settings))
    check("account", lambda: check_account(where, settings))
    check("container", lambda: check_container(where, settings), "credentials", "account")
    check("blob", lambda: check_blob(where, settings), "container")
    check("hub", lambda: check_hub(settings.hub_token))
    check("kernels", check_kernels)
    return Health(str(where), tuple(found))


def _look(name: str, look: Callable[[], str], needed: Sequence[Check]) -> Check:
    """What came of one check; it is left out if one that it needs did not come out well."""
    for each in needed:
        if each.status != "ok":
            why = each.detail if each.status == "skipped" else f"first see to the {each.name}"
            return Check(name, "skipped", why)
    try:
        return Check(name, "ok", look())
    except Skipped as reason:
        return Check(name, "skipped", str(reason))
    except PipelineError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        return Check(name, "problem", redact(what), redact(error.hint or "") or None, error.exit_code)
