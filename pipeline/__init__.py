"""Param∆ Pipeline: move what post-training taught a model onto the next base model.

    from pipeline import apply, compute

    compute("org/base-v1", "org/post-v1", "deltas/post.safetensors")
    apply("org/base-v2", ["deltas/post.safetensors"], "./post-v2")

Names are imported when they are first used, so that `import pipeline` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.version import __version__

if TYPE_CHECKING:
    from pipeline.batch.runner import run_batch
    from pipeline.checkpoints.checkpoint import open_checkpoint
    from pipeline.deltas.delta import open_delta
    from pipeline.operations.analyze import analyze
    from pipeline.operations.apply import apply
    from pipeline.operations.arguments import Difference
    from pipeline.operations.catalog import catalog
    from pipeline.operations.combine import combine
    from pipeline.operations.compute import compute
    from pipeline.operations.convert import convert
    from pipeline.operations.doctor.report import doctor
    from pipeline.operations.evaluate import evaluate
    from pipeline.operations.extract_adapter import extract_adapter
    from pipeline.operations.gate import gate
    from pipeline.operations.inspect import inspect
    from pipeline.operations.page import page
    from pipeline.operations.publish import publish
    from pipeline.operations.push import push
    from pipeline.operations.storing.cleaning import clean
    from pipeline.operations.storing.copying import copy
    from pipeline.operations.storing.deleting import delete
    from pipeline.operations.storing.listing import list_store
    from pipeline.operations.sweep import sweep
    from pipeline.operations.verify import verify
    from pipeline.tensors.state_dicts import apply_delta, calculate_delta, combine_deltas

_PLACES = {
    "Difference": "pipeline.operations.arguments",
    "analyze": "pipeline.operations.analyze",
    "apply": "pipeline.operations.apply",
    "apply_delta": "pipeline.tensors.state_dicts",
    "calculate_delta": "pipeline.tensors.state_dicts",
    "combine_deltas": "pipeline.tensors.state_dicts",
    "catalog": "pipeline.operations.catalog",
    "clean": "pipeline.operations.storing.cleaning",
    "combine": "pipeline.operations.combine",
    "convert": "pipeline.operations.convert",
    "doctor": "pipeline.operations.doctor.report",
    "copy": "pipeline.operations.storing.copying",
    "delete": "pipeline.operations.storing.deleting",
    "list_store": "pipeline.operations.storing.listing",
    "verify": "pipeline.operations.verify",
    "compute": "pipeline.operations.compute",
    "evaluate": "pipeline.operations.evaluate",
    "extract_adapter": "pipeline.operations.extract_adapter",
    "gate": "pipeline.operations.gate",
    "inspect": "pipeline.operations.inspect",
    "open_checkpoint": "pipeline.checkpoints.checkpoint",
    "open_delta": "pipeline.deltas.delta",
    "page": "pipeline.operations.page",
    "publish": "pipeline.operations.publish",
    "push": "pipeline.operations.push",
    "run_batch": "pipeline.batch.runner",
    "sweep": "pipeline.operations.sweep",
}

__all__ = [
    "Difference",
    "__version__",
    "analyze",
    "apply",
    "apply_delta",
    "calculate_delta",
    "catalog",
    "clean",
    "combine",
    "combine_deltas",
    "compute",
    "convert",
    "copy",
    "delete",
    "doctor",
    "evaluate",
    "extract_adapter",
    "gate",
    "inspect",
    "list_store",
    "open_checkpoint",
    "open_delta",
    "page",
    "publish",
    "push",
    "run_batch",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
