"""A step in pieces: whoever stages the blocks, the release is the one that a single process writes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from batch.clouds import Bucket, steps

from pipeline.batch.errands import Errand, run_errand
from pipeline.batch.splitting import SplitWalker
from pipeline.engine.schedule import Limits
from pipeline.progress import silent
from pipeline.units import MIB

PIECE_BYTES = 12 * MIB
LIMITS = Limits.of(256 * MIB, 2)


class Apart:
    """Nodes that share nothing with whoever asks: errands and answers are pickled, as Ray does.

    They answer in an order of their own: the last that was asked first.
    """

    def __init__(self, spoil=None):
        self.errands = []
        self.spoil = spoil

    def run(self, errands, watch):
        for number, errand in reversed(list(enumerate(errands))):
            watch()
            if self.spoil is not None:
                self.spoil(errand)
            self.errands.append(errand)
            yield number, pickle.loads(pickle.dumps(run_errand(pickle.loads(pickle.dumps(errand)))))


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
    assert len(nodes.errands) > 2
    assert split["fingerprint"] == whole["fingerprint"]
    assert bucket.files(f"split/{name}") == bucket.files(f"whole/{name}")
