"""Configs: what is accepted, and what is no config at all."""

import json
from pathlib import Path
from typing import get_args

import pytest
from batch.configs import DELTA, MODEL, problems, read
from pydantic import ValidationError

from pipeline.batch.config import Config, read_config
from pipeline.batch.fields import CodecName, DeviceName, DTypeName
from pipeline.batch.steps import Apply, Compute
from pipeline.batch.terms import Term
from pipeline.deltas.format import CODECS
from pipeline.errors import ConfigError
from pipeline.tensors.dtypes import parse_dtype

ROOT = Path(__file__).resolve().parents[2]


def test_steps_refer_to_each_other_by_id():
    config = read({"$schema": "./batch.schema.json", "steps": [MODEL, DELTA]})
    assert config.graph.order() == ["delta", "model"]
    assert config.by_id["delta"] == Compute(
        id="delta", base="org/v1", post="org/post", output="d.safetensors"
    )


def test_a_delta_is_written_in_any_of_four_ways():
    deltas = ["a.safetensors", "b=0.5", "@delta=-1e-3", {"delta": "c=1", "scale": 2}]
    config = read({"steps": [DELTA, {**MODEL, "deltas": deltas}]})
    assert config.by_id["model"].deltas == (
        Term(delta="a.safetensors"),
        Term(delta="b", scale=0.5),
        Term(delta="@delta", scale=-0.001),
        Term(delta="c=1", scale=2.0),
    )


def test_how_deltas_are_put_together_is_checked_before_any_step_runs():
    again = {**MODEL, "id": "again", "output": "./again", "method": "slerp", "scale": 1.5}
    sweep = {"id": "s", "run": "sweep", "base": "org/v2", "deltas": ["@delta"], "output": "./s"}
    making = {"density": 0.5, "skip": ["("], "seed": 3}
    one = {**MODEL, "method": "model_stock", "gamma": 0.1, "scale_for": ["mlp"]}
    assert problems({"steps": [DELTA, one, again, {**sweep, "making": making}]}) == [
        "steps[1]: 'mlp' is no pattern with a factor, such as 'mlp=0.5'; model_stock has no gamma; "
        "model_stock takes 2 or more deltas, not 1",
        "steps[2]: slerp needs a scale from 0 to 1, or two that are not negative nor both 0",
        "steps[3].making: '(' is not a pattern that RE2 takes; linear has no density; "
        "linear has no seed",
    ]


def test_the_query_of_a_url_is_not_a_scale():
    url = "https://account.blob.core.windows.net/models/d.safetensors?sv=1&sig=x="
    config = read({"steps": [{**MODEL, "deltas": [url, {"delta": url, "scale": 0.5}]}]})
    assert config.by_id["model"].deltas == (Term(delta=url), Term(delta=url, scale=0.5))


def test_a_model_made_by_one_step_is_base_and_post_of_others():
    again = {**DELTA, "id": "again", "base": "@model", "post": "@model", "output": "again"}
    chained = {**MODEL, "id": "chained", "base": "@model", "output": "./chained"}
    assert read({"steps": [chained, again, MODEL, DELTA]}).graph.needs == {
        "chained": ("model", "delta"),
        "again": ("model",),
        "model": ("delta",),
        "delta": (),
    }


def test_the_older_flat_form_becomes_compute_steps():
    pairs = [
        {"base": "org/v1", "post": "org/chat", "output": "deltas/chat.safetensors"},
        {"base": "org/v1", "post": "org/code", "output": "deltas/code model.safetensors"},
        {"base": "org/v2", "post": "org/chat", "output": "v2/chat.safetensors"},
    ]
    config = read({"model_pairs": pairs, "store": "./here", "defaults": {"overwrite": True}})
    assert list(config.by_id) == ["chat", "code-model", "chat-2"]
    assert config.by_id["chat-2"] == Compute(id="chat-2", **pairs[2])
    assert (config.options.store, config.options.overwrite) == ("./here", True)


def test_ids_of_the_flat_form_hold_no_credentials():
    url = "https://account.blob.core.windows.net/models/chat.safetensors?sig=SECRET"
    config = read({"model_pairs": [{"base": "org/v1", "post": "org/chat", "output": url}]})
    assert list(config.by_id) == ["chat"]


def test_the_options_are_those_of_the_operations():
    assert get_args(CodecName) == CODECS
    for name in get_args(DTypeName):
        parse_dtype(name)
    assert get_args(DeviceName) == ("auto", "cpu", "cuda")


def test_the_quickstart_is_a_config(monkeypatch, tmp_path):
    for name in ("base-v1", "post-v1", "base-v2", "post-v2"):
        (tmp_path / "examples/family" / name).mkdir(parents=True)
    config = read_config(ROOT / "configs/quickstart.json")
    assert config.graph.order() == [
        "delta-v1", "exact", "candidate", "measured", "good-enough", "release", "anatomy",
    ]  # fmt: skip


def test_a_config_made_in_python_is_checked_too():
    with pytest.raises(ValidationError, match=r"deltas\[0\]: no step is called 'delta' "):
        Config(steps=(Apply(**{k: v for k, v in MODEL.items() if k != "run"}),))


def test_a_config_does_not_change():
    config = read({"steps": [DELTA]})
    with pytest.raises(ValidationError):
        config.steps[0].base = "org/other"


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(ConfigError, match=r"nothing.json: 1 problem: can't be read: No such file"):
        read_config("nothing.json")


def test_a_syntax_error_has_its_line_and_column():
    (problem,) = problems('{"steps": [\n  {"id": "a",}\n]}')
    assert problem.startswith("line 2, column 14: is not JSON: ")


@pytest.mark.parametrize("text", ["", "[" * 100_000, "9" * 5000])
def test_what_is_not_json_is_refused(text):
    (problem,) = problems(text)
    assert "is not JSON" in problem


def test_bytes_that_are_not_utf8_are_refused():
    Path("batch.json").write_bytes(b'{"steps": "\xff"}')
    with pytest.raises(ConfigError, match="is not JSON: 'utf-8' codec can't decode"):
        read_config("batch.json")


def test_a_byte_order_mark_does_not_matter():
    Path("batch.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"steps": [DELTA]}).encode())
    assert read_config("batch.json").graph.order() == ["delta"]


def test_a_key_given_twice_is_found_at_any_depth():
    text = json.dumps({"steps": [DELTA], "defaults": {"workers": 1}})
    text = text.replace('"workers": 1', '"workers": 1, "workers": 2').replace(
        '"run"', '"id": "x", "run"'
    )
    assert problems(text) == [
        "defaults.workers: is given more than once",
        "steps[0].id: is given more than once",
    ]


def test_the_whole_must_be_an_object():
    assert problems([1]) == ["$: should be an object"]
