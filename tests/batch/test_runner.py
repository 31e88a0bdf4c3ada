"""Running a config: exact results, failures that stop only what needs them, and the report."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from models import cast, formula, near, random_state, read_model, same_bits, write_model
from servers.azurite import Azurite

from pipeline.batch.config import Config, read_config
from pipeline.batch.report import BatchReport, StepResult
from pipeline.batch.runner import run_batch
from pipeline.deltas.delta import open_delta
from pipeline.errors import ConfigError, PipelineError, UsageError
from pipeline.version import TOOL


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


@pytest.fixture(scope="module")
def states():
    """A family: v1, its post-trained version with a larger vocabulary, and v2."""
    base = random_state(0)
    return {
        "base-v1": cast(base),
        "post-v1": cast(near(base, 1, vocab=53)),
        "code-v1": cast(near(base, 2)),
        "base-v2": cast(near(base, 3, scale=1e-2)),
    }


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, states):
    """The current directory: the family, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for name, state in states.items():
        write_model(tmp_path / name, state)
    return tmp_path


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


# Results


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
    assert run(compute("packed"), compute("plain", codec="none")).ok
    for name, codec in (("packed", "rans"), ("plain", "none")):
        with open_delta(f"{name}.delta") as delta:
            assert delta.manifest.codec == codec
    report = run(
        compute("packed"), compute("plain", codec="none"), more={"defaults": {"overwrite": True}}
    )
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


# Failures


def test_a_failed_step_stops_only_those_that_need_it(states):
    report = run(
        compute("bad", base="./nothing"),
        apply("first", "@bad"),
        apply("second", "@good", base="@first"),
        compute("good"),
        apply("fine", "@good"),
    )
    assert not report.ok
    assert statuses(report) == {
        "bad": "failed",
        "first": "skipped",
        "good": "done",
        "second": "skipped",
        "fine": "done",
    }
    by_id = {step.id: step for step in report.steps}
    assert by_id["bad"].error.startswith("nothing: no such folder")
    assert by_id["first"].error == "needs 'bad', which failed"
    assert by_id["second"].error == "needs 'first', which was skipped"
    assert [step.exit_code for step in report.steps] == [3, 3, 0, 3, 0]
    assert_same(read_model(Path("out/fine")), transferred(states, (1.0, "post-v1")))
    assert not Path("out/first").exists()


def test_outputs_that_exist_are_kept_unless_overwriting_is_asked_for():
    assert run(*CHAIN).ok
    before = {path: data for path, data in files().items() if path.parts[0] in ("out", "store")}
    report = run(*CHAIN)
    assert statuses(report) == {"delta": "failed", "model": "skipped"}
    assert "already exists" in report.steps[0].error
    assert before.items() <= files().items()
    assert run(*CHAIN, overwrite=True).ok
    assert run(*CHAIN, more={"defaults": {"overwrite": True}}).ok
    assert not run(*CHAIN, more={"defaults": {"overwrite": True}}, overwrite=False).ok


def broken(error):
    """A progress that raises, standing for a bug or an interrupt in the middle of a step."""

    @contextmanager
    def progress(title, total):
        if title == "compute delta.delta":
            raise error
        yield lambda nbytes: None

    return progress


def test_a_bug_fails_its_step_and_is_told_as_one():
    report = run(*CHAIN, compute("other"), progress=broken(RuntimeError("odd")))
    assert statuses(report) == {"delta": "failed", "model": "skipped", "other": "done"}
    assert report.steps[0].error.startswith(
        "a bug in this tool: RuntimeError: odd (test_runner.py, line "
    )
    assert report.steps[0].exit_code == 1


def test_an_interrupt_passes_through_after_the_report_is_written():
    with pytest.raises(KeyboardInterrupt):
        run(compute("other"), *CHAIN, progress=broken(KeyboardInterrupt()))
    report = json.loads(Path("reports/release.json").read_text())
    assert not report["ok"]
    assert [(step["id"], step["status"], step["exit_code"]) for step in report["steps"]] == [
        ("other", "done", 0),
        ("delta", "failed", 130),
        ("model", "skipped", 130),
    ]
    assert report["steps"][1]["error"] == "interrupted"
    assert not Path("store/delta.delta").exists()


def test_each_step_is_told_of_as_it_ends():
    seen = []
    report = run(
        compute("bad", base="./nothing"), apply("first", "@bad"), compute("good"), on_step=seen.append
    )
    assert seen == report.steps
    assert all(isinstance(step, StepResult) for step in seen)


# The report


def test_the_report_says_what_each_step_did():
    report = run(*CHAIN)
    written = json.loads(Path("reports/release.json").read_text())
    assert written == json.loads(report.to_json())
    assert written["ok"] is True
    assert written["config"] == "release.json"
    assert written["config_digest"] == blake3(Path("release.json").read_bytes()).hexdigest()
    assert written["tool"] == TOOL
    assert written["started"].endswith("+00:00")
    delta, model = written["steps"]
    assert (delta["run"], delta["error"], delta["result"]["output"]) == ("compute", None, "delta.delta")
    assert model["result"]["deltas"] == [["delta.delta", 1.0]]
    assert model["result"]["base"] == "./base-v2"
    assert len(model["result"]["fingerprint"]) == 64
    assert written["seconds"] >= max(delta["seconds"], model["seconds"]) > 0


def test_the_report_goes_where_the_config_says_and_replaces_the_last_one():
    more = {"report": "./logs/last run.json"}
    assert run(*CHAIN, more=more).ok
    assert not run(*CHAIN, more=more).ok
    assert [path.name for path in Path("logs").iterdir()] == ["last run.json"]
    assert json.loads(Path("logs/last run.json").read_text())["ok"] is False
    assert not Path("reports").exists()


def test_a_report_that_can_not_be_written_stops_the_run_before_any_work():
    Path("logs").write_text("a file, not a folder")
    with pytest.raises(PipelineError, match="logs"):
        run(*CHAIN, more={"report": "./logs/report.json"})
    assert not Path("store").exists()


def test_a_report_is_ok_only_if_no_step_failed_or_was_skipped():
    def ok(*found):
        steps = [StepResult("s", "compute", status) for status in found]
        return BatchReport(None, "", "", 0.0, False, steps).ok

    assert ok("done", "planned")
    assert not ok("done", "failed")
    assert not ok("done", "skipped")


# Dry runs


def test_a_dry_run_writes_nothing():
    before = files()
    report = run(*CHAIN, dry_run=True)
    after = files()
    del after[Path("release.json")]
    assert after == before
    assert report.ok
    assert report.dry_run


def test_a_dry_run_plans_each_step_or_says_what_it_waits_for():
    delta, model = run(*CHAIN, dry_run=True).steps
    assert (delta.status, delta.waits_for) == ("planned", ())
    assert delta.result["dry_run"] is True
    assert delta.result["read_bytes"] > 0
    assert (model.status, model.waits_for, model.result) == ("planned", ("delta",), None)


def test_a_dry_run_plans_from_outputs_that_are_there():
    run(*CHAIN)
    report = run(*CHAIN, dry_run=True, overwrite=True)
    assert [step.waits_for for step in report.steps] == [(), ()]
    assert report.steps[1].result["written_bytes"] > 0


def test_a_dry_run_finds_what_would_fail():
    run(CHAIN[0])
    report = run(*CHAIN, apply("late", "@delta"), dry_run=True)
    assert statuses(report) == {"delta": "failed", "model": "skipped", "late": "skipped"}
    assert "already exists" in report.steps[0].error


def test_a_dry_run_looks_at_the_other_inputs_and_the_output_of_a_step_that_waits():
    Path("out/taken").mkdir(parents=True)
    Path("out/taken/file").touch()
    report = run(
        CHAIN[0],
        apply("lost", "@delta", base="./nothing"),
        apply("absent", "@delta", "absent.delta"),
        apply("taken", "@delta"),
        apply("fine", "@delta"),
        dry_run=True,
    )
    assert list(statuses(report).values()) == ["planned", "failed", "failed", "failed", "planned"]
    reasons = [step.error for step in report.steps[1:4]]
    assert reasons[0].startswith("nothing: no such folder")
    assert "absent.delta" in reasons[1]
    assert reasons[2].startswith("out/taken: already exists")


# Azure


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
