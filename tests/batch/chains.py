"""Configs of a few steps over a small family of models, and what they should come to."""

import json
from pathlib import Path

from models import formula, same_bits

from pipeline.batch.runner import run_batch


def compute(name, base="./base-v1", post="./post-v1", **more):
    return {"id": name, "run": "compute", "base": base, "post": post, "output": f"{name}.delta", **more}


def apply(name, *deltas, base="./base-v2", **more):
    return {
        "id": name,
        "run": "apply",
        "base": base,
        "deltas": list(deltas),
        "output": f"out/{name}",
        **more,
    }


CHAIN = (compute("delta"), apply("model", "@delta"))


def config(*steps, **more):
    """A config file with these steps; its path."""
    Path("release.json").write_text(json.dumps({"steps": steps, **more}))
    return "release.json"


def run(*steps, more=None, **options):
    return run_batch(config(*steps, **(more or {})), **options)


def statuses(report):
    return {step.id: step.status for step in report.steps}


def files():
    """All files below the current directory, with their content."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def transferred(states, *terms, base="base-v2"):
    """base + the sum of scale * (post - base-v1), by the reference."""
    return {
        name: formula(
            tensor, *((scale, states[post][name], states["base-v1"][name]) for scale, post in terms)
        )
        for name, tensor in states[base].items()
    }


def assert_same(found, expected):
    assert set(found) == set(expected)
    assert all(same_bits(found[name], expected[name]) for name in expected)
