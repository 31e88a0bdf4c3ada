"""What is said of an error that a step has met, and the exit code that goes with it."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError

A_BUG = 1


def explain(error: Exception) -> tuple[str, int]:
    """What a report says of an error, and the exit code that goes with it."""
    if isinstance(error, PipelineError):
        return str(error), error.exit_code
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"a bug in this tool: {type(error).__name__}: {error}{at}", A_BUG
