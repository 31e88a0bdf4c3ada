"""Steps that show what deltas and models are, judge and publish them: how they are done and told of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pipeline.checkpoints.adapters.post import open_model
from pipeline.engine.schedule import Limits
from pipeline.errors import PipelineError, Refused
from pipeline.operations.evaluating.models import base_of
from pipeline.progress import Progressing, silent
from pipeline.quality.report import ROLES, Evaluation
from pipeline.settings import Settings


def perform(
    run: str,
    arguments: Mapping[str, Any],
    *,
    limits: Limits | None = None,
    progress: Progressing = silent,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Do the operation `run`; what came of it, as JSON values. Raises what the operation raises.

    A refusal is a result: see `refusal_of`.
    """
    words: dict[str, Any] = {**arguments, "dry_run": dry_run}
    if run == "gate":
        return _gate(words)
    words |= {"progress": progress}
    if run == "publish":
        from pipeline.operations.publish import publish

        words |= {} if limits is None else {"memory": limits.memory_bytes}
        return asdict(publish(**words))
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
        case "sweep":
            return _sweep(words)
    return _evaluate(words)


def _gate(words: dict[str, Any]) -> dict[str, Any]:
    from pipeline.operations.gate import gate

    words.pop("store", None)  # a cluster's nodes are always told of it
    verdict = gate(**words)
    told: dict[str, Any] = json.loads(verdict.to_json())
    return {**told, "dry_run": words["dry_run"], "refusals": verdict.refusals}


def _sweep(words: dict[str, Any]) -> dict[str, Any]:
    from pipeline.operations.sweep import sweep

    found = sweep(**words)
    told: dict[str, Any] = json.loads(found.to_json())
    measured = found.made_of.get("models", {})
    return {**told, **{f"{role}_fingerprint": digest for role, digest in measured.items()}}


def _evaluate(words: dict[str, Any]) -> dict[str, Any]:
    from pipeline.operations.evaluate import evaluate

    found = evaluate(**words)
    if words["dry_run"]:
        return {"dry_run": True, "output": words["output"].partition("?")[0], **_to_read(words)}
    return _told(found, words["output"])


def _to_read(words: Mapping[str, Any]) -> dict[str, int]:
    """The weights that an evaluation reads, if it knows nothing of any model yet. In bytes."""
    settings = Settings.load(store=words.get("store"), dequantize=bool(words.get("dequantize")))
    read = download = 0
    roles = {role: words[role] for role in ROLES if role in words}
    for role, text in roles.items():
        base = base_of(role, roles)
        with open_model(text, base=base, settings=settings, headers_only=True) as model:
            nbytes = sum(source.entry.nbytes for source in model.tensors.values())
            read += nbytes
            download += nbytes * any(reader.is_remote for reader in model.readers)
    return {"read_bytes": read, "download_bytes": download}


def _told(evaluation: Evaluation, output: str) -> dict[str, Any]:
    """What a batch's report says of an evaluation: whose it is, and the figures of what was judged."""
    said = json.loads(evaluation.to_json())
    scores = said["scores"]
    return {
        "output": output.partition("?")[0],
        "model": evaluation.model.location,
        "fingerprint": evaluation.model.fingerprint,
        **{f"{role}_fingerprint": scores[role]["fingerprint"] for role in ROLES if role in scores},
        "data": said["data"],
        "settings": said["settings"],
        "figures": scores["model"]["figures"],
    }


def refusal_of(result: Mapping[str, Any] | None) -> str | None:
    """Why a gate refuses, if what came of a step is a verdict that does."""
    if result is None or result.get("passed") is not False:
        return None
    return "refused: " + "; ".join(result["refusals"])


def raise_refusal(result: Mapping[str, Any] | None) -> None:
    """Raise Refused if what came of a step, or would, is a verdict that refuses."""
    if (text := refusal_of(result)) is not None:
        raise Refused(text)


def conditions_told(result: Mapping[str, Any] | None) -> Iterator[str]:
    """A line for each comparison of a verdict, of whatever a report says: it may come from elsewhere."""
    for each in (result or {}).get("judgements", ()):
        yield f"{'passed' if each['passed'] else 'REFUSED'}: {each['comparison']}: {each['why']}"


def evidence_key(run: str, arguments: Mapping[str, Any], report: Mapping[str, Any]) -> list[Any]:
    """What a step's result depends on beside its options: digests, whatever their places are."""
    match run:
        case "analyze" | "page" | "sweep":
            return [report["made_of"]]
        case "gate":
            return [report["report_digest"], list(arguments["require"])]
        case "publish":
            return [report["fingerprint"]]
    fingerprints = [report.get(f"{role}_fingerprint") for role in ROLES]
    return [*fingerprints, [each["digest"] for each in report["data"]], report["settings"]]


def foresee_publish(
    arguments: Mapping[str, Any], made: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What a publish step will move that waits for its gates. made: what its source's step will write.

    None if that can't be seen.
    """
    from pipeline.operations.publish import foresee

    try:
        nbytes = made["written_bytes"] if made is not None else None
        return foresee(arguments["source"], arguments["output"], arguments.get("store"), nbytes)
    except (PipelineError, KeyError):
        return None
