"""Steps that show what deltas and models are: how they are done and told of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.engine.schedule import Limits
from pipeline.progress import Progressing, silent


def show(
    run: str,
    arguments: Mapping[str, Any],
    *,
    limits: Limits | None = None,
    progress: Progressing = silent,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Analyze, page or sweep; what came of it, as JSON values. Raises what the operation raises."""
    words: dict[str, Any] = {**arguments, "dry_run": dry_run, "progress": progress}
    words |= {} if limits is None else {"limits": limits}
    match run:
        case "analyze":
            from pipeline.operations.analyze import analyze

            words["deltas"] = [name for name, _ in words["deltas"]]
            report = asdict(analyze(**words))
            report.pop("analysis")  # it is in its folder
            return report
        case "page":
            from pipeline.operations.page import page

            return asdict(page(**words))
    from pipeline.operations.sweep import sweep

    found = sweep(**words)
    told: dict[str, Any] = json.loads(found.to_json())
    made_of = found.made_of.get("models", {})
    return {**told, **{f"{role}_fingerprint": digest for role, digest in made_of.items()}}
