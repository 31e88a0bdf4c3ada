"""What containers promise beyond what every store does: which credentials open them, and which not."""

from __future__ import annotations

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
from azure.storage.blob import ContainerClient, generate_container_sas
from servers.azurite import Azurite
from storage.helpers import get, open_store, put

import pipeline
from pipeline.errors import AccessError, NotFound, PipelineError, UsageError
from pipeline.storage.base import Store

ROOT = Path(pipeline.__file__).resolve().parents[1]
CANARY = "Y2FuYXJ5LWluLWEtY29hbC1taW5l"  # a well-formed key, and wrong everywhere


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
