"""A step in pieces: whoever stages the blocks, the release is the one that a single process writes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from batch.clouds import Bucket, steps
from keys import make_pair
from models import read_model, write_model

from pipeline.batch.errands import Errand, run_errand
from pipeline.batch.specification import Specification
from pipeline.batch.splitting import NotSplit, SplitWalker
from pipeline.engine.schedule import Limits
from pipeline.errors import (
    ConfigError,
    CorruptFile,
    Mismatch,
    OutputExists,
    StorageError,
    Unreachable,
    UsageError,
)
from pipeline.operations.outputs.report import ANOTHER_BASE
from pipeline.operations.verify import verify
from pipeline.progress import silent
from pipeline.storage.azure.writing import AzureWriter
from pipeline.units import MIB

PIECE_BYTES = 6 * MIB
LIMITS = Limits.of(256 * MIB, 2)


class Apart:
    """Nodes that share nothing with whoever asks: errands and answers are pickled, as Ray does.

    The last that was asked answers first, unless they are `in_order`. after: called when one has.
    """

    def __init__(self, after=lambda: None, in_order=False):
        self.errands = []
        self._after = after
        self._in_order = in_order

    def run(self, errands, watch):
        order = range(len(errands)) if self._in_order else reversed(range(len(errands)))
        for number in order:
            watch()
            self.errands.append(errands[number])
            errand = pickle.loads(pickle.dumps(errands[number]))
            yield number, pickle.loads(pickle.dumps(run_errand(errand)))
            self._after()


def perform(spec, nodes, **options):
    errand = Errand(spec, LIMITS.memory_bytes, LIMITS.workers, str(Path.cwd()))
    walker = SplitWalker(errand, nodes, LIMITS, PIECE_BYTES)
    return spec.perform(limits=LIMITS, walker=walker, **{"progress": silent, **options})


@pytest.fixture
def bucket(azurite, monkeypatch, tmp_path, large_family):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    return Bucket.fresh(azurite)


@pytest.mark.parametrize("name", ["packed", "plain", "sum", "same-base", "model", "fused"])
def test_pieces_make_the_release_that_one_process_makes(name, bucket, large_family):
    specs = steps(large_family, bucket.location)
    for needed in specs[name].needs:
        specs[needed].at("whole").perform(limits=LIMITS, progress=silent)
    whole = specs[name].at("whole").perform(limits=LIMITS, progress=silent)
    nodes = Apart()
    split = perform(specs[name].at("split"), nodes)
    assert len(nodes.errands) > 1
    assert split["fingerprint"] == whole["fingerprint"]
    assert bucket.files(f"split/{name}") == bucket.files(f"whole/{name}")


def test_small_files_that_folders_hold_back_are_written_by_whoever_publishes(bucket, large_family):
    sample = steps(large_family, bucket.location)["fused"]
    for where in ("whole", "split"):
        spec = sample.at(where, shard_size=MIB)
        if where == "whole":
            spec.perform(limits=LIMITS, progress=silent)
        else:
            perform(spec, Apart())
    assert bucket.files("split/") == bucket.files("whole/")


def test_a_base_that_only_looks_the_same_is_found_out_by_nodes_too(bucket, large_family, tmp_path):
    state = read_model(large_family / "base")
    state["model.layers.0.mlp.up_proj.weight"][-1, -1] += 1  # where nobody looks before the run
    samples = steps(large_family, bucket.location)
    samples["packed"].at("whole").perform(limits=LIMITS, progress=silent)
    base = str(write_model(tmp_path / "nearly", state))
    whole = samples["same-base"].at("whole", base=base).perform(limits=LIMITS, progress=silent)
    split = perform(samples["same-base"].at("split", base=base), Apart())
    assert split["case"] == whole["case"] == ANOTHER_BASE
    assert bucket.files("split/same-base") == bucket.files("whole/same-base")


def test_an_input_that_changes_on_the_way_is_refused(bucket, large_family, tmp_path):
    base = write_model(tmp_path / "base", read_model(large_family / "base"))
    spec = steps(large_family, bucket.location)["packed"].at("split", base=str(base))
    later = Apart(after=lambda: write_model(tmp_path / "base", read_model(large_family / "other")))
    with pytest.raises(StorageError, match="an input has changed"):
        perform(spec, later)
    assert not bucket.files("split/")


@pytest.mark.parametrize("name", ["packed", "plain", "fused"])
def test_an_interrupted_run_is_gone_on_with(name, bucket, large_family):
    sample = steps(large_family, bucket.location)[name]
    more = {"shard_size": 64 * MIB} if name == "fused" else {}
    sample.at("whole", **more).perform(limits=LIMITS, progress=silent)

    def interrupt():
        raise KeyboardInterrupt

    first, second = Apart(after=interrupt, in_order=True), Apart(in_order=True)
    with pytest.raises(KeyboardInterrupt):
        perform(sample.at("split", **more), first)
    perform(sample.at("split", **more), second)
    assert len(first.errands) == 1
    pieces = [errand.piece.part for errand in (*first.errands, *second.errands)]
    assert all(before.stop <= after.first for before, after in pairwise(pieces))
    assert bucket.files(f"split/{name}") == bucket.files(f"whole/{name}")


def test_what_nodes_had_staged_for_a_dead_run_is_not_sent_again(bucket, large_family, monkeypatch):
    """The run is killed before it notes anything: the blocks are found by their content."""
    spec = steps(large_family, bucket.location)["packed"].at("split")

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with pytest.raises(Killed):
        perform(spec, Apart(after=kill, in_order=True))
    staged = bucket.staged_bytes("split/")
    assert staged
    sent = []
    stage = AzureWriter._stage
    monkeypatch.setattr(AzureWriter, "_stage", lambda *args: (sent.append(args[2].nbytes), stage(*args)))
    perform(spec, Apart())
    assert sum(sent) + staged == len(bucket.files("split/")["packed.safetensors"])


def test_only_whoever_publishes_needs_the_key_that_signs(bucket, large_family, tmp_path):
    keys = make_pair(tmp_path, "ed25519")
    nodes = Apart()
    samples = steps(large_family, bucket.location)
    for name in ("packed", "fused"):
        perform(samples[name].at("split", sign_key=keys.private), nodes)
        verified = verify(f"{bucket.location}/split/{name}{samples[name].suffix}", key=keys.public)
        assert verified
    assert "sign_key" not in {name for each in nodes.errands for name in each.spec.arguments}


def test_an_error_of_a_piece_is_the_steps_own(bucket, large_family):
    samples = steps(large_family, bucket.location)
    samples["plain"].at("whole").perform(limits=LIMITS, progress=silent)
    bucket.spoil("whole/plain.safetensors")
    with pytest.raises(CorruptFile, match=r"plain\.safetensors"):
        perform(samples["model"].at("split"), Apart())
    assert not bucket.files("split/")


def test_an_output_that_is_there_stays(bucket, large_family):
    spec = steps(large_family, bucket.location)["packed"].at("split")
    perform(spec, Apart())
    before = bucket.files("split/")
    with pytest.raises(OutputExists):
        perform(spec, Apart())
    assert bucket.files("split/") == before
    again = replace(spec, arguments={**spec.arguments, "overwrite": True})
    perform(again, Apart())
    assert bucket.files("split/") == before


def test_what_goes_to_a_local_file_is_not_split(bucket, large_family, tmp_path):
    spec = steps(large_family, bucket.location)["packed"].at(
        "split", output=str(tmp_path / "x.safetensors")
    )
    nodes = Apart()
    with pytest.raises(NotSplit):
        perform(spec, nodes)
    assert not nodes.errands
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no", where="here", hint="try"),
        Mismatch(["a", "b"], where="here", hint="try"),
        ConfigError(["$.a: b"], where="c.json"),
        Unreachable("away", status=503, retry_after_s=2.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_as_themselves(error):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (str(found), found.exit_code, vars(found)) == (str(error), error.exit_code, vars(error))


def test_a_bug_travels_as_words_and_without_secrets():
    secret = "hf_" + "a" * 20
    answer = run_errand(Errand(Specification(secret, "compute", {"nonsense": secret}), MIB, 1, "."))
    assert answer.bug is not None
    with pytest.raises(RuntimeError, match="a bug in this tool"):
        answer.check()
    refused = run_errand(
        Errand(
            Specification("x", "combine", {"deltas": [{"delta": secret, "scale": "no"}], "output": "x"}),
            MIB,
            1,
            ".",
        )
    )
    assert secret not in str(refused)
