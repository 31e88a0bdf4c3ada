"""Steps on a real Ray cluster of two nodes: the local engine's bytes, whoever is killed on the way.

`make test-ray` runs these: they need requirements-ray.txt, 200 MB more.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from batch.clouds import Bucket, steps
from batch.ray_cluster import listening, ray_cluster, wait_for
from servers.fault_proxy import FaultProxy

from pipeline.batch.ray_engine import RayEngine
from pipeline.engine.schedule import Limits
from pipeline.errors import CorruptFile, UsageError
from pipeline.progress import silent
from pipeline.units import GIB, MIB

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PIECE_BYTES = 6 * MIB


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


class Gate:
    """Lets the nodes stage as many blocks as it is told, and no more before it is opened."""

    def __init__(self, wire):
        self._blocks = threading.Semaphore(0)
        wire.rule = self._rule

    def _rule(self, method, target):
        if method == "PUT" and "comp=block&" in target:
            self._blocks.acquire(timeout=120)

    def let(self, blocks):
        self._blocks.release(blocks)

    def open(self):
        self.let(1000)


@contextmanager
def in_the_middle(spec, engine, nodes, wire, bucket):
    """A run of `spec`: one block is staged, both nodes are at work. It ends after the block."""
    gate = Gate(wire)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(on_cluster, spec, engine)
        try:
            wait_for(lambda: nodes.tasks_of_second() and len(nodes.tasks()) == 2)
            gate.let(1)
            wait_for(lambda: bucket.staged_bytes("cluster/"))
            yield
            assert not running.done()
        finally:
            gate.open()
        running.result()


@pytest.mark.parametrize("name", ["packed", "model"])
def test_a_worker_killed_in_the_middle_is_replaced(name, bucket, engine, large_family, nodes, wire):
    samples = steps(large_family, bucket.location)
    make([*samples[name].needs, name], samples)
    with in_the_middle(samples[name].at("cluster"), engine, nodes, wire, bucket):
        for victim in wait_for(nodes.tasks):
            victim.kill()
            victim.wait(10)
    assert bucket.files(f"cluster/{name}") == bucket.files(f"whole/{name}")


@pytest.mark.parametrize("name", ["packed", "model"])
def test_a_node_lost_in_the_middle_is_not_needed(name, bucket, engine, large_family, nodes, wire):
    samples = steps(large_family, bucket.location)
    make([*samples[name].needs, name], samples)
    with in_the_middle(samples[name].at("cluster"), engine, nodes, wire, bucket):
        nodes.stop_second()  # which is at work, unless the one block ended its task
    assert bucket.files(f"cluster/{name}") == bucket.files(f"whole/{name}")


def test_an_interrupt_ends_the_tasks_and_the_next_run_goes_on(bucket, engine, large_family, nodes, wire):
    spec = steps(large_family, bucket.location)["packed"]
    locally(spec.at("whole"))

    @contextmanager
    def interrupted(title, total_bytes):
        def advance(nbytes):
            if nbytes:
                raise KeyboardInterrupt

        yield advance

    limits = engine.limits(256 * MIB, None, 1)
    with pytest.raises(KeyboardInterrupt):
        engine.perform(spec.at("cluster"), limits=limits, progress=interrupted)
    wait_for(lambda: not nodes.tasks())
    staged = bucket.staged_bytes("cluster/")
    assert staged
    wire.clear()
    on_cluster(spec.at("cluster"), engine)
    assert bucket.files("cluster/") == bucket.files("whole/")


def test_an_error_of_a_node_is_the_operations_own(bucket, engine, large_family):
    samples = steps(large_family, bucket.location)
    make(samples["model"].needs, samples)
    bucket.spoil("whole/plain.safetensors")
    with pytest.raises(CorruptFile, match=r"plain\.safetensors") as caught:
        on_cluster(samples["model"].at("cluster"), engine)
    assert caught.value.exit_code == 6
    # A journal may lie there, of what the other node had done by then.
    assert not [name for name in bucket.files("cluster/") if not name.endswith(".journal")]


def test_what_is_not_split_runs_on_a_node(bucket, engine, large_family, tmp_path):
    samples = steps(large_family, bucket.location)
    make(["plain"], samples)
    report = on_cluster(samples["model"].at("cluster", output="out/model"), engine)
    assert report["files"]
    locally(samples["model"].at("whole"))
    found = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "out/model").iterdir()}
    assert found == bucket.files("whole/model")


def test_a_signature_in_a_location_does_not_travel(bucket, engine, large_family, azurite):
    spec = steps(large_family, bucket.location)["model"].at("cluster")
    output = f"{azurite.url}/{bucket.client.container_name}/m?{azurite.sas_token()}"
    with pytest.raises(UsageError, match="AZURE_STORAGE_SAS_TOKEN") as caught:
        on_cluster(replace(spec, arguments={**spec.arguments, "output": output}), engine)
    assert "sig=" not in str(caught.value)


def test_what_no_node_has_is_refused_before_anything_waits_for_it(engine):
    with pytest.raises(UsageError, match="no node"):
        engine.limits(100 * GIB, None, 1)
    with pytest.raises(UsageError, match="no node"):
        engine.limits(MIB, 7, 1)


def test_a_config_runs_on_the_cluster_by_the_command_line(bucket, nodes, large_family, cli, tmp_path):
    (tmp_path / "release.json").write_text(
        json.dumps(
            {
                "defaults": {"store": bucket.location, "memory": "256MiB"},
                "steps": [
                    {
                        "id": "delta",
                        "run": "compute",
                        "base": str(large_family / "base"),
                        "post": str(large_family / "post"),
                        "output": "d.safetensors",
                    },
                    {
                        "id": "model",
                        "run": "apply",
                        "base": str(large_family / "new-base"),
                        "deltas": ["@delta"],
                        "output": f"{bucket.location}/model",
                    },
                    {"id": "check", "run": "verify", "target": "@model"},
                ],
            }
        )
    )
    words = ("batch", "release.json", "--engine", "ray", "--ray-address", nodes.address)
    for status in ("done", "fresh"):
        done = cli(*words, "--format", "json", "--jobs", 2)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert [step["status"] for step in report["steps"]] == [status] * 3
    assert bucket.files("d.safetensors")
    assert bucket.files("model/")


def test_the_cluster_of_these_tests_listens_on_loopback_alone(nodes):
    heard = {place.laddr.ip for each in nodes.processes() for place in listening(each)}
    assert heard <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_no_secret_is_in_what_ray_has_written(bucket, nodes, azurite):
    """Last, so that all runs before it are looked at."""
    written = [path for path in nodes.folder.rglob("*") if path.is_file()]
    assert written
    key = azurite.account_key.encode()
    assert not [path for path in written if key in path.read_bytes()]


@pytest.mark.parametrize(
    ("address", "code", "hint"),
    [("127.0.0.1:1", 5, "ray start --head"), ("ray://127.0.0.1:1", 2, "docs/scaling.md")],
)
def test_without_a_cluster_the_command_says_what_to_do(address, code, hint, cli, tmp_path):
    step = {"id": "v", "run": "verify", "target": "x"}
    (tmp_path / "c.json").write_text(json.dumps({"steps": [step]}))
    done = cli("batch", "c.json", "--engine", "ray", "--ray-address", address)
    assert done.returncode == code
    assert hint in done.stderr
