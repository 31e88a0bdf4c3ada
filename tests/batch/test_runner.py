"""Running a config: steps in their order, with exact results."""

import json
from pathlib import Path

import pytest
import torch
from batch.chains import CHAIN, apply, assert_same, compute, config, run, statuses, transferred
from models import formula, read_model
from servers.azurite import Azurite

from pipeline.batch.config import Config, read_config
from pipeline.batch.runner import run_batch
from pipeline.deltas.delta import open_delta
from pipeline.errors import ConfigError, UsageError

pytestmark = pytest.mark.usefixtures("family")

EMBEDDING = "model.embed_tokens.weight"


def test_a_chain_moves_a_delta_to_the_next_base(states):
    report = run(*CHAIN)
    assert report.ok
    assert statuses(report) == {"delta": "done", "model": "done"}
    assert_same(read_model(Path("out/model")), transferred(states, (1.0, "post-v1")))


def test_steps_run_after_those_they_need_whatever_their_order(states):
    report = run(*reversed(CHAIN))
    assert list(statuses(report)) == ["delta", "model"]
    assert_same(read_model(Path("out/model")), transferred(states, (1.0, "post-v1")))


def test_each_delta_has_its_own_scale_or_the_steps(states):
    report = run(
        compute("post"),
        compute("code", post="./code-v1"),
        apply("both", "@post=0.5", {"delta": "@code", "scale": -1}, "@code", scale=0.25),
    )
    assert report.ok
    assert report.steps[2].result["deltas"] == [
        ("post.delta", 0.5),
        ("code.delta", -1.0),
        ("code.delta", 0.25),
    ]
    expected = transferred(states, (0.5, "post-v1"), (-1.0, "code-v1"), (0.25, "code-v1"))
    expected[EMBEDDING][50:] = states["post-v1"][EMBEDDING][50:]  # new rows are whole at any scale
    assert_same(read_model(Path("out/both")), expected)


def test_a_model_made_by_one_step_is_base_and_post_of_later_ones(states):
    report = run(
        *CHAIN,
        apply("twice", "@delta", base="@model"),
        compute("moved", base="./base-v2", post="@model"),
        apply("restored", "@moved"),
    )
    assert report.ok
    assert report.steps[4].result["case"].startswith("same base")
    once = transferred(states, (1.0, "post-v1"))
    twice = {
        name: formula(tensor, (1.0, states["post-v1"][name], states["base-v1"][name]))
        for name, tensor in once.items()
    }
    twice[EMBEDDING][50:] = states["post-v1"][EMBEDDING][50:]  # new rows are whole, however often
    assert_same(read_model(Path("out/restored")), once)
    assert_same(read_model(Path("out/twice")), twice)


def test_the_older_flat_form_computes_its_pairs(states):
    pairs = [
        {"base": "./base-v1", "post": "./post-v1", "output": "deltas/post.safetensors"},
        {"base": "./base-v1", "post": "./code-v1", "output": "deltas/code.safetensors"},
    ]
    Path("old.json").write_text(json.dumps({"model_pairs": pairs, "store": "./here"}))
    report = run_batch("old.json")
    assert statuses(report) == {"post": "done", "code": "done"}
    assert sorted(path.name for path in Path("here/deltas").iterdir()) == [
        "code.safetensors",
        "post.safetensors",
    ]


def test_options_go_from_run_to_step_to_defaults(states):
    defaults = {
        "store": "./there",
        "dtype": "float32",
        "workers": 1,
        "memory": "128MiB",
        "device": "cpu",
    }
    report = run(
        *CHAIN, apply("half", "@delta", dtype="float16"), more={"defaults": defaults}, store="./here"
    )
    assert report.ok
    assert Path("here/delta.delta").exists()
    assert not Path("there").exists()
    dtypes = {
        name: {t.dtype for t in read_model(Path("out", name)).values()} for name in ("model", "half")
    }
    assert dtypes == {"model": {torch.float32}, "half": {torch.float16}}


def test_a_delta_is_packed_unless_its_step_says_otherwise():
    report = run(compute("packed"), compute("plain", codec="none"))
    for name, codec in (("packed", "rans"), ("plain", "none")):
        with open_delta(f"{name}.delta") as delta:
            assert delta.manifest.codec == codec
    sizes = [step.result["written_bytes"] for step in report.steps]
    assert sizes[0] < sizes[1]


def test_shards_have_the_size_that_a_step_asks_for():
    assert run(CHAIN[0], apply("model", "@delta", shard_size="4KiB")).ok
    assert len(list(Path("out/model").glob("*.safetensors"))) > 1


def test_a_config_may_be_an_object(states):
    steps = read_config(config(*CHAIN)).steps
    report = run_batch(Config(steps=steps))
    assert report.ok
    assert report.config is None
    assert Path("reports/batch.json").exists()


def test_one_step_runs_alone(states):
    assert run(*CHAIN, only="delta").ok
    assert not Path("out").exists()
    report = run(*CHAIN, only="model")  # the delta exists, and would be refused if it ran again
    assert statuses(report) == {"model": "done"}
    assert_same(read_model(Path("out/model")), transferred(states, (1.0, "post-v1")))


def test_one_step_alone_fails_without_what_it_needs():
    report = run(*CHAIN, only="model")
    assert statuses(report) == {"model": "failed"}
    assert "no such file" in report.steps[0].error


def test_an_unknown_step_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match="the config has: delta, model"):
        run(*CHAIN, only="modle")
    assert not Path("store").exists()


def test_an_option_that_means_nothing_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match="memory: 'lots' is not a size"):
        run(*CHAIN, memory="lots")
    assert not Path("store").exists()


def test_a_config_with_problems_does_not_run():
    with pytest.raises(ConfigError):
        run(CHAIN[1])
    assert not Path("reports").exists()


def test_a_chain_with_its_store_and_report_in_azure_tells_no_secret(azurite: Azurite, states):
    container = azurite.create_container().container_name
    url = f"{azurite.url}/{container}/release"
    sas = azurite.sas_token("racwdl")
    steps = (compute("delta", output=f"{url}/d.safetensors?{sas}"), apply("model", "@delta"))
    waiting = run(*steps, dry_run=True)
    assert waiting.steps[1].waits_for == ("delta",)
    report = run(*steps, more={"report": f"{url}/report.json?{sas}"})
    assert [step.error for step in report.steps] == [None, None]
    assert_same(read_model(Path("out/model")), transferred(states, (1.0, "post-v1")))
    written = azurite.client(container).download_blob("release/report.json").readall()
    assert json.loads(written)["steps"][0]["result"]["output"] == f"{url}/d.safetensors"
    assert b"sig=" not in written
