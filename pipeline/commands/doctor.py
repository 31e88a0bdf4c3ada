"""The command doctor: what is wrong with this machine, the credentials or the store."""

from __future__ import annotations

import dataclasses
import json

import typer

from pipeline.commands.options import Format, Output, Store


def doctor(store: Store = None, form: Output = Format.HUMAN) -> None:
    """Check all that a run needs, in order, and say what to do.

    Versions, memory, disk, kernels, the Hub; of a container: credentials, account, clock, and that a
    small blob can be written, read and deleted. Exits with 0, or with the code of the first problem.
    """
    from pipeline import doctor as run
    from pipeline.errors import printable

    report = run(store=store)
    if form is Format.JSON:
        print(json.dumps({"ok": report.ok, **dataclasses.asdict(report)}, ensure_ascii=False))
    else:
        width = max(len(check.name) for check in report.checks)
        for check in report.checks:
            hint = f" ({check.hint})" if check.hint else ""
            print(f"{check.status:7}  {check.name:{width}}  {printable(check.detail + hint)}")
    if not report.ok:
        raise typer.Exit(report.exit_code)
