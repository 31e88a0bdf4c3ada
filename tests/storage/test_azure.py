"""What containers promise beyond what every store does: access, refusals, faults on the wire."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient, ExponentialRetry, generate_container_sas
from servers.azurite import Azurite
from storage.faults import Faults

import pipeline
from pipeline.errors import AccessError, NotFound, PipelineError, UsageError
from pipeline.settings import Settings
from pipeline.storage import retry
from pipeline.storage.base import Store
from pipeline.storage.locations import open_folder, parse_store

ROOT = Path(pipeline.__file__).resolve().parents[1]
CANARY = "Y2FuYXJ5LWluLWEtY29hbC1taW5l"  # a well-formed key, and wrong everywhere


@pytest.fixture
def container(azurite: Azurite) -> ContainerClient:
    client = azurite.create_container()
    client.upload_blob("blob", b"content")
    return client


def open_store(text: str, **env: str) -> Store:
    return open_folder(parse_store(text), Settings.from_mapping(env))


def put(store: Store, name: str, data: bytes, *, overwrite: bool = False) -> None:
    with store.create(name, size_hint=len(data), overwrite=overwrite) as writer:
        half = len(data) // 2
        writer.write(half, data[half:])
        writer.write(0, data[:half])
        writer.commit()


def get(store: Store, name: str) -> bytes:
    reader = store.open(name)
    data = bytearray(reader.nbytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)


# -- access -----------------------------------------------------------------------------------


def each_use(store: Store) -> Iterator[Callable[[], Any]]:
    yield lambda: store.stat("blob")
    yield lambda: store.open("blob")
    yield lambda: list(store.list())
    yield lambda: store.create("new", size_hint=1, overwrite=False)
    yield lambda: store.create_folder("new", size_hint=1, overwrite=False)


def refused(store: Store, kind: type[PipelineError], exit_code: int) -> list[str]:
    """What each use of `store` says when it raises `kind`; no secret is in any of it."""
    texts = []
    for use in each_use(store):
        with pytest.raises(kind) as error:
            use()
        assert type(error.value).exit_code == exit_code
        shown = "".join(traceback.format_exception(error.value)) + repr(error.value)
        assert CANARY not in shown
        texts.append(str(error.value))
    return texts


def test_a_wrong_key_is_refused_at_once(azurite: Azurite, container: ContainerClient) -> None:
    store = open_store(
        f"az://{container.container_name}",
        AZURE_STORAGE_ACCOUNT_URL=azurite.url,
        AZURE_STORAGE_ACCOUNT_KEY=CANARY,
    )
    started = time.monotonic()
    for text in refused(store, AccessError, 5):
        assert container.container_name in text
    assert time.monotonic() - started < 5


def test_a_key_that_is_no_key_is_refused(azurite: Azurite, container: ContainerClient) -> None:
    key = f"{CANARY}="  # wrong padding
    name = container.container_name
    refused(open_store(f"{azurite.url}/{name}", AZURE_STORAGE_ACCOUNT_KEY=key), AccessError, 5)


def test_an_expired_signature_is_refused(azurite: Azurite, container: ContainerClient) -> None:
    token = azurite.sas_token(lifetime=timedelta(hours=-1))
    signature = token.partition("sig=")[2].partition("&")[0]
    store = open_store(f"{azurite.url}/{container.container_name}?{token}")
    for text in refused(store, AccessError, 5):
        assert signature not in text
    assert signature not in repr(store) + store.url


def test_a_signature_that_only_reads_cannot_write(azurite: Azurite, container: ContainerClient) -> None:
    store = open_store(f"{azurite.url}/{container.container_name}?{azurite.sas_token('rl')}")
    assert get(store, "blob") == b"content"
    with pytest.raises(AccessError, match="rwlc"):
        put(store, "new", b"content")
    assert store.stat("new") is None


def test_a_signature_for_one_container_is_enough(azurite: Azurite, container: ContainerClient) -> None:
    """The commonest kind. It may not ask for the container's own properties."""

    def opened(permission: str) -> Store:
        token = generate_container_sas(
            azurite.account_name,
            container.container_name,
            azurite.account_key,
            permission=permission,
            expiry=datetime.now(UTC) + timedelta(hours=1),
        )
        return open_store(f"{azurite.url}/{container.container_name}?{token}")

    store = opened("rwlc")
    assert store.stat("new") is None
    put(store, "new", b"written")
    assert get(store, "new") == b"written"
    with opened("rwdlc").create_folder("model", size_hint=2, overwrite=False) as folder:
        for name in ("model.safetensors", "config.json"):
            folder.create(name, size_hint=2).write(0, b"{}")
        folder.publish(["model.safetensors", "config.json"])
    found = [blob.name for blob in store.list()]
    assert found == ["blob", "model/config.json", "model/model.safetensors", "new"]


@pytest.mark.parametrize(
    "text", [CANARY, f"AccountKey={CANARY}", f"AccountName=a;AccountKey={CANARY};{CANARY}"]
)
def test_a_broken_connection_string_is_not_quoted(text: str) -> None:
    with pytest.raises(PipelineError) as error:
        open_store("az://container", AZURE_STORAGE_CONNECTION_STRING=text).stat("x")
    assert CANARY not in "".join(traceback.format_exception(error.value))


def test_a_container_that_is_not_there_is_told_from_a_blob_that_is_not(azurite: Azurite) -> None:
    store = open_store(f"{azurite.url}/no-such-one", AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)
    for text in refused(store, NotFound, 3):
        assert "no such container" in text
        assert "no-such-one" in text


def test_credentials_never_go_over_plain_http_to_another_machine() -> None:
    with pytest.raises(UsageError, match="https"):
        open_store("http://acc.blob.core.windows.net/container", AZURE_STORAGE_ACCOUNT_KEY=CANARY)


@pytest.mark.parametrize("credential", ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"])
def test_an_accounts_credential_is_not_sent_to_another_address(
    azurite: Azurite, credential: str
) -> None:
    """A location in somebody else's config must not collect what the environment holds."""
    seen: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            seen.append(f"{self.path} {self.headers}")
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    secret = f"sv=2022-11-02&sig={CANARY}" if "SAS" in credential else CANARY
    env = {"AZURE_STORAGE_ACCOUNT_URL": azurite.url, credential: secret}
    try:
        with pytest.raises(PipelineError):
            open_store(f"http://127.0.0.1:{server.server_port}/evil/container", **env).open("x")
    finally:
        server.shutdown()
        server.server_close()
    assert not [text for text in seen if CANARY in text or "SharedKey" in text]


def run(text: str, timeout: float, **env: str) -> subprocess.CompletedProcess[str]:
    """What `inspect` of `text` says, in a process with nothing in its environment but `env`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "inspect", text],
        env={"HOME": "/nonexistent", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential", **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize("url", ["https://nobody.blob.invalid", "http://127.0.0.1:1/acc"])
def test_without_credentials_an_error_says_what_to_set(url: str) -> None:
    done = run(f"{url}/container/x.safetensors", timeout=60)
    assert done.returncode == 5, done.stderr
    assert "AZURE_STORAGE_" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_account_that_does_not_answer_is_given_up_within_a_minute() -> None:
    url = "http://127.0.0.1:1/acc/container/x.safetensors"
    done = run(url, timeout=60, AZURE_STORAGE_ACCOUNT_KEY=CANARY)
    assert done.returncode == 5, done.stderr
    assert "does not answer" in done.stderr
    assert "container/x.safetensors" in done.stderr
    assert CANARY not in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- faults -----------------------------------------------------------------------------------


@pytest.fixture
def faults(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.01)
    with Faults(azurite.url) as proxy:
        yield proxy


@pytest.fixture
def store(faults: Faults, azurite: Azurite, container: ContainerClient) -> Store:
    url = f"{faults.url}/{container.container_name}"
    return open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)


@pytest.mark.parametrize("fault", ["reset", "short", "lost", 500, 503, 429])
def test_a_spoiled_range_is_read_again(
    fault: str | int, faults: Faults, store: Store, container: ContainerClient
) -> None:
    data = random.Random(3).randbytes(1 << 20)
    container.upload_blob("x", data)
    reader = store.open("x")
    faults.once(fault, "GET", "/x")
    buffer = bytearray(len(data) - 10)
    reader.read_into(10, memoryview(buffer))
    assert buffer == data[10:]
    assert [method for method, path in faults.log].count("GET") > 1


@pytest.mark.parametrize("fault", ["flip", "lost", 500, 503, 429])
def test_a_spoiled_block_is_sent_again(
    fault: str | int, faults: Faults, store: Store, container: ContainerClient
) -> None:
    data = random.Random(4).randbytes(1 << 20)
    faults.once(fault, "PUT", "comp=block&")
    put(store, "x", data)
    assert container.download_blob("x").readall() == data
    assert sum("comp=block&" in path for _, path in faults.log) == 3


@pytest.mark.parametrize("fault", ["lost", 500, 503, 429])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_commit_whose_answer_was_lost_is_known_for_ours(
    fault: str | int, overwrite: bool, faults: Faults, store: Store, container: ContainerClient
) -> None:
    if overwrite:
        container.upload_blob("x", b"old")
    faults.once(fault, "PUT", "comp=blocklist")
    put(store, "x", b"abcdef", overwrite=overwrite)
    assert container.download_blob("x").readall() == b"abcdef"


def test_a_refused_commit_is_not_taken_for_ours(faults: Faults, store: Store) -> None:
    with store.create("x", size_hint=3, overwrite=False) as writer:
        writer.write(0, b"abc")
        put(store, "x", b"other")
        faults.once("lost", "PUT", "comp=blocklist")
        with pytest.raises(PipelineError, match="exists"):
            writer.commit()
    assert get(store, "x") == b"other"


def test_whoever_sees_the_last_file_of_a_folder_sees_all_of_it(store: Store, faults: Faults) -> None:
    order = [f"model-{number:02d}" for number in range(12)] + ["config.json"]
    with store.create_folder("model", size_hint=1, overwrite=False) as folder:
        for name in order:
            folder.create(name, size_hint=1).write(0, b"x")
        folder.publish(order)
    commits = [path for method, path in faults.log if method == "PUT" and "comp=blocklist" in path]
    assert [path.partition("?")[0].rpartition("/")[2] for path in commits] == order


@pytest.mark.parametrize("commit", [1, 2, 3])
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_that_publish_at_the_same_time_do_not_mix(
    commit: int,
    overwrite: bool,
    faults: Faults,
    store: Store,
    azurite: Azurite,
    container: ContainerClient,
) -> None:
    """One begins while the other is at that commit; what lies there in the end is one run's, whole."""
    other = open_store(
        f"{azurite.url}/{container.container_name}", AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key
    )
    contents = [
        {"model.safetensors": b"one", "tokenizer.json": b"one", "config.json": b"one"},
        {"model-1-of-1.safetensors": b"two", "tokenizer.json": b"two", "config.json": b"two"},
    ]
    folders = [s.create_folder("model", size_hint=1, overwrite=overwrite) for s in (store, other)]
    for folder, files in zip(folders, contents, strict=True):
        for name, data in files.items():
            folder.create(name, size_hint=3).write(0, data)
    published = [False, False]

    def publish(number: int) -> None:
        with contextlib.suppress(PipelineError):
            folders[number].publish(list(contents[number]))
            published[number] = True

    second = threading.Thread(target=publish, args=(1,))
    seen = itertools.count(1)

    def rule(method: str, path: str) -> None:
        if method == "PUT" and "comp=blocklist" in path and next(seen) == commit:
            second.start()
            second.join(timeout=2)

    faults.rule = rule
    publish(0)
    second.join()
    left = {blob.name.removeprefix("model/"): get(other, blob.name) for blob in other.list("model/")}
    assert left in contents
    assert published[contents.index(left)]
    assert overwrite or published.count(True) == 1
