"""A config of two steps, and the problems that are found in what is made of it."""

import json
from pathlib import Path

import pytest

from pipeline.batch.config import read_config
from pipeline.errors import ConfigError

DELTA = {
    "id": "delta",
    "run": "compute",
    "base": "org/v1",
    "post": "org/post",
    "output": "d.safetensors",
}
MODEL = {"id": "model", "run": "apply", "base": "org/v2", "deltas": ["@delta"], "output": "./out"}


def read(content):
    text = content if isinstance(content, str) else json.dumps(content)
    Path("batch.json").write_text(text)
    return read_config("batch.json")


def problems(content):
    with pytest.raises(ConfigError) as caught:
        read(content)
    assert caught.value.where == "batch.json"
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def steps(*changes):
    """Problems of DELTA and MODEL after changes to either."""
    return problems({"steps": [{**DELTA, **changes[0]}, {**MODEL, **(changes[1:] or ({},))[0]}]})
