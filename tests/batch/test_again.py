"""A run makes the difference between what a config says and what exists, and no more."""

import json
import shutil
from pathlib import Path

import pytest
from batch.chains import CHAIN, apply, compute, config, files, run, statuses
from keys import make_pair
from models import cast, layered_state, near, random_state, write_model

from pipeline.batch.runner import run_batch
from pipeline.storage.local import store
from pipeline.storage.local.store import LocalReader

pytestmark = pytest.mark.usefixtures("family")

COMBINED = {"id": "sum", "run": "combine", "deltas": ["@code", "@code=0.5"], "output": "sum.delta"}
VERIFIED = {"id": "proof", "run": "verify", "target": "@model"}


LARGE = 24 << 20  # bytes of a tensor, beside which headers and what is read with them are little
LITTLE = LARGE // 4


@pytest.fixture
def weights_read(states, monkeypatch):
    """How many bytes were read from models' weights, since it was asked last; models are large here."""
    large = layered_state(1, LARGE, 0)
    for name, state in states.items():
        write_model(Path(name), {**state, **large})
    counted = [0]
    read_into = LocalReader.read_into

    def counting(self, offset, buffer):
        if self.name.endswith("model.safetensors"):
            counted[0] += len(buffer)
        read_into(self, offset, buffer)

    monkeypatch.setattr(LocalReader, "read_into", counting)

    def since():
        found, counted[0] = counted[0], 0
        return found

    return since


def touched(folder):
    """The same content, under another time, in another file."""
    copy = Path(f"{folder}-copy")
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)


def test_digests_are_kept_where_a_config_says_so_and_steps_that_are_up_to_date_stay_so(monkeypatch):
    monkeypatch.setattr(store, "TICK_NS", -(10**9))  # as if all files had been made long ago
    steps = (*CHAIN, COMBINED | {"deltas": ["@delta"]}, VERIFIED)
    kept = {"more": {"defaults": {"digest_cache": "digests"}}}
    assert set(statuses(run(*steps)).values()) == {"done"}
    assert not Path("digests").exists()
    assert set(statuses(run(*steps, **kept)).values()) == {"fresh"}
    for recalled in (False, True):
        report = run(*steps, **kept, force=True, overwrite=True)
        again = {step.id: step.result for step in report.steps}
        assert all(bool(again[name]["recalled_bytes"]) == recalled for name in ("delta", "model"))
    assert len(list(Path("digests").iterdir())) == 3  # a file of weights each


def test_what_is_up_to_date_is_left_alone_and_no_weights_are_read(weights_read):
    steps = (*CHAIN, compute("code", post="./code-v1"), COMBINED, VERIFIED)
    assert set(statuses(run(*steps)).values()) == {"done"}
    before = files()
    assert weights_read() > 4 * LARGE
    report = run(*steps)
    assert set(statuses(report).values()) == {"fresh"}
    assert weights_read() < LITTLE
    after = files()
    assert {path for path in after if after[path] != before[path]} == {Path("reports/release.json")}
    assert report.steps[0].result["fingerprint"]


def test_only_what_depends_on_a_changed_input_is_made_anew(states):
    steps = (*CHAIN, apply("other", "@delta", base="./base-v3"))
    write_model(Path("base-v3"), cast(near(random_state(0), 8, scale=1e-2)))
    more = {"overwrite": True}
    assert run(*steps, more=more).ok
    write_model(Path("base-v3"), cast(near(random_state(0), 9, scale=1e-2)))
    report = run(*steps, more=more)
    assert statuses(report) == {"delta": "fresh", "model": "fresh", "other": "done"}
    assert report.steps[2].reason == "what was there is of another base"
    write_model(Path("post-v1"), cast(near(random_state(0), 7)))
    assert set(statuses(run(*steps, more=more)).values()) == {"done"}


@pytest.mark.parametrize("name", ["base-v1", "post-v1", "base-v2"])
def test_it_is_the_content_that_counts_not_the_time_of_a_file(name, weights_read):
    assert run(*CHAIN).ok
    touched(name)
    weights_read()
    plan = run(*CHAIN, dry_run=True)
    assert name in (plan.steps[name == "base-v2"].reason or "")
    assert set(statuses(run(*CHAIN)).values()) == {"fresh"}
    assert LARGE < weights_read() < LARGE + LITTLE
    assert set(statuses(run(*CHAIN)).values()) == {"fresh"}
    assert weights_read() < LITTLE  # it is known now


def test_without_the_last_report_inputs_are_read_and_nothing_is_written():
    assert run(*CHAIN).ok
    shutil.rmtree("reports")
    before = files()
    assert set(statuses(run(*CHAIN)).values()) == {"fresh"}
    assert before.items() <= files().items()
    Path("reports/release.json").write_text("{}")
    assert set(statuses(run(*CHAIN)).values()) == {"fresh"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"codec": "none"}, "is packed by rans"),
        ({"dtype": "float32"}, "has other tensors, or in other formats"),
        ({"base": "./base-v2"}, "is of another base"),
        ({"post": "./code-v1"}, "has other tensors"),
    ],
)
def test_a_delta_that_would_come_out_otherwise_is_made_anew(change, reason):
    assert run(compute("delta")).ok
    (step,) = run(compute("delta", **change), overwrite=True).steps
    assert step.status == "done"
    assert reason in step.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deltas": ["@delta=0.5"]}, "is of other deltas or scales"),
        ({"deltas": ["@code"]}, "is of other deltas or scales"),
        ({"base": "./base-v1"}, "is of another base"),
        ({"dtype": "float32"}, "has other tensors, formats or shards"),
        ({"shard_size": "4KiB"}, "has other tensors, formats or shards"),
    ],
)
def test_a_model_that_would_come_out_otherwise_is_made_anew(change, reason):
    code = compute("code", post="./code-v1")
    assert run(*CHAIN, code).ok
    report = run(CHAIN[0], code, {**CHAIN[1], **change}, overwrite=True)
    assert report.steps[2].status == "done"
    assert reason in report.steps[2].reason


def test_what_is_damaged_or_lacks_files_is_made_anew():
    assert run(*CHAIN).ok
    Path("out/model/config.json").unlink()
    Path("store/delta.delta").write_bytes(b"nothing of use")
    report = run(*CHAIN, overwrite=True)
    assert [step.reason for step in report.steps] == [
        "what was there is no delta that can be read",
        "what was there lacks config.json",
    ]
    assert set(statuses(run(*CHAIN)).values()) == {"fresh"}


def test_what_must_be_signed_is_not_done_without_a_signature(folder):
    key = make_pair(folder, "ed25519").private
    assert run(*CHAIN).ok
    report = run(*({**step, "sign_key": key} for step in CHAIN), overwrite=True)
    assert [step.reason for step in report.steps] == ["what was there is not signed"] * 2
    assert set(statuses(run(*({**step, "sign_key": key} for step in CHAIN))).values()) == {"fresh"}


def test_force_runs_what_is_up_to_date_too():
    assert run(*CHAIN).ok
    before = files()
    report = run(*CHAIN, force=True, overwrite=True)
    assert set(statuses(report).values()) == {"done"}
    assert {path: before[path] for path in before if path.parts[0] in ("out", "store")} == {
        path: data for path, data in files().items() if path.parts[0] in ("out", "store")
    }


def test_the_same_step_has_the_same_key_wherever_it_is_done():
    first = run(*CHAIN)
    moved = [{**step, "output": f"moved-{step['output']}"} for step in CHAIN]
    second = run(*moved)
    assert [step.key for step in first.steps] == [step.key for step in second.steps]
    other = run(*CHAIN[:1], {**CHAIN[1], "scale": 0.5, "output": "half"}, force=True, overwrite=True)
    assert other.steps[0].key == first.steps[0].key
    assert other.steps[1].key != first.steps[1].key


def test_what_a_difference_was_taken_of_is_not_read_again(weights_read):
    fused = ({key: value for key, value in CHAIN[0].items() if key != "output"}, CHAIN[1])
    assert statuses(run(*fused)) == {"model": "done"}
    assert weights_read() > LARGE
    assert statuses(run(*fused)) == {"model": "fresh"}
    assert weights_read() < LITTLE


def test_a_step_that_takes_a_difference_has_one_key_wherever_its_models_lie():
    fused = ({key: value for key, value in CHAIN[0].items() if key != "output"}, CHAIN[1])
    first = run(*fused)
    shutil.copytree("post-v1", "copied")
    second = run({**fused[0], "post": "copied"}, {**fused[1], "output": "moved"})
    assert first.steps[0].key == second.steps[0].key


def test_a_delta_on_the_way_is_part_of_what_a_model_is_made_of(states):
    fused = ({key: value for key, value in CHAIN[0].items() if key != "output"}, CHAIN[1])
    assert statuses(run(*fused)) == {"model": "done"}
    made = {path: data for path, data in files().items() if path.suffix == ".safetensors"}
    assert statuses(run(*fused)) == {"model": "fresh"}
    write_model(Path("post-v1"), cast(near(random_state(0), 7, vocab=53)))
    report = run(*fused, overwrite=True)
    assert report.steps[0].reason == "what was there is of another post of a difference"
    shutil.rmtree("post-v1")
    write_model(Path("post-v1"), states["post-v1"])
    assert run(*CHAIN, overwrite=True).ok
    weights = Path("out/model/model.safetensors")
    assert weights.read_bytes() == made[weights]  # the same as by way of a stored delta


def test_reports_of_dry_runs_are_not_kept():
    run(*CHAIN, dry_run=True)
    assert not Path("reports").exists()
    assert run(*CHAIN).ok
    written = Path("reports/release.json").read_bytes()
    run(*CHAIN, dry_run=True)
    assert Path("reports/release.json").read_bytes() == written
    known = json.loads(written)["known"]
    assert len(known["fingerprints"]) == 4  # three inputs and a model


def test_chains_and_matrices_are_made_step_by_step(states):
    write_model(Path("base-v3"), cast(near(random_state(0), 9, scale=1e-2)))
    models = {f"v{n}": f"./base-v{n}" for n in (1, 2, 3)}
    chain = {
        "id": "chat",
        "versions": [
            {"name": "v1", "base": "@v1", "post": "./post-v1"},
            {"name": "v2", "base": "@v2"},
            {"name": "v3", "base": "@v3"},
        ],
        "delta": "chat-{version}.delta",
        "output": "out/chat-{version}",
    }
    content = {"models": models, "chain": [chain], "overwrite": True}
    assert statuses(run_batch(config(**content))) == {
        "chat.delta.v1": "done", "chat.v2": "done", "chat.v3": "done",
    }  # fmt: skip
    write_model(Path("base-v3"), cast(near(random_state(0), 10, scale=1e-2)))
    assert statuses(run_batch(config(**content))) == {
        "chat.delta.v1": "fresh", "chat.v2": "fresh", "chat.v3": "done",
    }  # fmt: skip
    assert Path("out/chat-v3/config.json").exists()
