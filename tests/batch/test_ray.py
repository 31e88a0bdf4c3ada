"""Steps on a real Ray cluster of two nodes: the local engine's bytes, whoever is killed on the way.

`make test-ray` runs these: they need requirements-ray.txt, 200 MB more.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from batch.clouds import Bucket, steps
from batch.ray_cluster import ray_cluster, wait_for
from servers.fault_proxy import FaultProxy
from servers.faults import Fault

from pipeline.batch.ray_engine import RayEngine
from pipeline.batch.runner import run_batch
from pipeline.engine.schedule import Limits
from pipeline.progress import silent
from pipeline.units import MIB

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PIECE_BYTES = 12 * MIB


@pytest.fixture(scope="module")
def wire(azurite):
    """Between the nodes and the store."""
    with FaultProxy(azurite.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def nodes(azurite, wire):
    """The cluster; its way to the store is through `wire`."""
    text = azurite.connection_string.replace(azurite.url, wire.url)
    with ray_cluster({"AZURE_STORAGE_CONNECTION_STRING": text}) as made:
        yield made


@pytest.fixture
def bucket(azurite, nodes, wire, monkeypatch, tmp_path):
    nodes.start_second()
    wire.clear()
    monkeypatch.chdir(tmp_path)
    text = azurite.connection_string.replace(azurite.url, wire.url)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    return Bucket.fresh(azurite)


@pytest.fixture
def engine(nodes, monkeypatch):
    with RayEngine.connect(nodes.address, piece_bytes=PIECE_BYTES) as made:
        yield made


def locally(spec):
    return spec.perform(limits=Limits.of(256 * MIB, 2), progress=silent)


def on_cluster(spec, engine):
    limits = engine.limits(256 * MIB, None, 1)
    return engine.perform(spec, limits=limits, progress=silent)


def make(names, samples, where="whole"):
    for name in names:
        locally(samples[name].at(where))


@pytest.mark.parametrize("name", ["packed", "plain", "sum", "model"])
def test_two_nodes_make_the_release_that_one_process_makes(name, bucket, engine, large_family):
    samples = steps(large_family, bucket.location)
    make([*samples[name].needs, name], samples)
    report = on_cluster(samples[name].at("cluster"), engine)
    assert report["fingerprint"]
    assert bucket.files(f"cluster/{name}") == bucket.files(f"whole/{name}")
