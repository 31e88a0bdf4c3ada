"""Signing in: each way for real, against Azurite over HTTPS and a local token endpoint."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import generate_container_sas
from servers.azurite import Azurite
from servers.tokens import Certificate, Tokens
from storage.helpers import get, open_store, put

from pipeline.errors import AccessError, UsageError
from pipeline.settings import Settings
from pipeline.storage.azure import identity as azure_identity
from pipeline.storage.azure.client import connect
from pipeline.storage.azure.credentials import find_account
from pipeline.storage.azure.identity import uses_github
from pipeline.storage.locations import parse_store
from pipeline.storage.opening import open_folder

STRING = "AZURE_STORAGE_CONNECTION_STRING"
WAYS = ("secret", "workload", "managed", "az", "github")
SECRETS = (
    "connection string",
    "connection string with a SAS",
    "key",
    "SAS of the account",
    "SAS of the container",
    "SAS in the location",
    "SAS in the account's address",
)


@pytest.fixture(autouse=True)
def nobody_is_signed_in_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_identity, "_made", {})


@pytest.fixture
def signed_in(
    request: pytest.FixtureRequest, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment after signing in by the parameter's way."""
    env = tokens.environment(request.param, tmp_path)
    if request.param == "az":
        tokens.write_az(tmp_path)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.mark.parametrize("signed_in", WAYS, indirect=True)
def test_each_way_of_signing_in_opens_a_container(
    signed_in: dict[str, str], secure: Azurite, tokens: Tokens
) -> None:
    container = secure.create_container()
    env = {**signed_in, "AZURE_STORAGE_ACCOUNT_URL": secure.url}
    for text in (f"az://{container.container_name}", f"{secure.url}/{container.container_name}"):
        store = open_store(text, **env)
        put(store, "x", b"content", overwrite=True)
        assert get(store, "x") == b"content"
    assert tokens.issued


@pytest.mark.parametrize("signed_in", ["az", "github"], indirect=True)
def test_a_run_asks_for_one_token_however_many_stores_and_threads_it_has(
    signed_in: dict[str, str], secure: Azurite, tokens: Tokens, tmp_path: Path
) -> None:
    env = {**signed_in, "AZURE_STORAGE_ACCOUNT_URL": secure.url}
    names = [secure.create_container().container_name for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: put(open_store(f"az://{name}", **env), "x", b"ab"), names))
    calls = tmp_path / "az-calls"
    assert (calls.read_text() if calls.exists() else tokens.log) in (".\n", ["id token", "github"])


@pytest.mark.parametrize("signed_in", ["managed", "github"], indirect=True)
def test_an_upload_outlives_several_tokens(
    signed_in: dict[str, str], secure: Azurite, tokens: Tokens
) -> None:
    tokens.lifetime = 1
    container = secure.create_container()
    store = open_store(f"{secure.url}/{container.container_name}", **signed_in)
    blocks = [bytes([number]) * 1000 for number in range(9)]
    with store.create("x", size_hint=9000, overwrite=False) as writer:
        for number, block in enumerate(blocks):
            writer.write(1000 * number, block)
            time.sleep(0.3)
        writer.commit()
    assert get(store, "x") == b"".join(blocks)
    assert len(set(tokens.issued)) >= 3
    assert tokens.log.count("id token") == tokens.log.count("github")  # a fresh one each time


def test_a_token_that_cannot_be_renewed_is_used_while_it_is_good(
    secure: Azurite, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tokens.environment("secret", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", env["REQUESTS_CA_BUNDLE"])
    tokens.lifetime = 200  # due from the beginning, and good
    store = open_store(f"{secure.url}/{secure.create_container().container_name}", **env)
    put(store, "x", b"content")
    tokens.refuse = (401, "AADSTS7000222: The provided client secret keys are expired.")
    assert get(store, "x") == b"content"


@pytest.mark.parametrize("signed_in", ["secret"], indirect=True)
def test_the_way_that_azure_token_credentials_names_is_taken(
    signed_in: dict[str, str],
    secure: Azurite,
    tokens: Tokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens.write_az(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    text = f"{secure.url}/{secure.create_container().container_name}"
    assert list(open_store(text, **os.environ).list()) == []
    assert tokens.log == ["az"]
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "Nonsense")
    with pytest.raises(UsageError, match="AZURE_TOKEN_CREDENTIALS"):
        open_store(text, **os.environ)


@pytest.mark.parametrize("signed_in", ["github"], indirect=True)
@pytest.mark.parametrize(
    "other",
    [
        {"AZURE_CLIENT_SECRET": "chosen"},
        {"AZURE_FEDERATED_TOKEN_FILE": "/chosen"},
        {"AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"},
        {"AZURE_CLIENT_ID": ""},
    ],
    ids=lambda other: next(iter(other)),
)
def test_github_tokens_give_way_to_what_was_chosen(
    signed_in: dict[str, str], other: dict[str, str]
) -> None:
    assert uses_github(signed_in)
    assert not uses_github({**signed_in, **other})


def test_who_is_signed_in_may_be_said_in_dotenv(
    secure: Azurite, tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-identity itself reads only the process's environment, and that is left as it was."""
    env = tokens.environment("secret", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", env.pop("REQUESTS_CA_BUNDLE"))
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    before = dict(os.environ)
    settings = Settings.load(folder=tmp_path)
    container = secure.create_container()
    location = parse_store(f"{secure.url}/{container.container_name}")
    store = open_folder(
        location, replace(settings, azure=replace(settings.azure, account_url=secure.url))
    )
    assert list(store.list()) == []
    assert tokens.log == ["secret"]
    assert dict(os.environ) == before


def credentials(azurite: Azurite, container: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Each way to use a secret of the account itself: a location, and the environment for it."""
    text, az = f"{azurite.url}/{container}", f"az://{container}"
    of_container = generate_container_sas(
        azurite.account_name,
        container,
        azurite.account_key,
        permission="rwdlc",
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    signed = f"BlobEndpoint={azurite.url};SharedAccessSignature={of_container}"
    account = {"AZURE_STORAGE_ACCOUNT_URL": azurite.url}
    return {
        "connection string": (az, {STRING: azurite.connection_string}),
        "connection string with a SAS": (az, {STRING: signed}),
        "key": (az, {**account, "AZURE_STORAGE_ACCOUNT_KEY": azurite.account_key}),
        "SAS of the account": (az, {**account, "AZURE_STORAGE_SAS_TOKEN": azurite.sas_token()}),
        "SAS of the container": (az, {**account, "AZURE_STORAGE_SAS_TOKEN": f"?{of_container}"}),
        "SAS in the location": (f"{text}?{of_container}", {}),
        "SAS in the account's address": (
            az,
            {"AZURE_STORAGE_ACCOUNT_URL": f"{azurite.url}?{of_container}"},
        ),
    }


@pytest.mark.parametrize("way", SECRETS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_each_secret_of_the_account_opens_a_container(
    way: str,
    scheme: str,
    azurite: Azurite,
    secure: Azurite,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.path)
    server = secure if scheme == "https" else azurite
    container = server.create_container().container_name
    text, env = credentials(server, container)[way]
    store = open_store(text, **env)
    put(store, "x", b"content")
    assert get(store, "x") == b"content"
    settings = Settings.from_mapping(env)
    client = connect(parse_store(text), settings.azure)
    for url in (client.url, client.get_blob_client("x").url, client.primary_endpoint):
        assert "sig=" not in url


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("http://acc.blob.core.windows.net/container", {}),
        ("http://127.example.com/acc/container", {}),
        ("az://container", {"AZURE_STORAGE_ACCOUNT_URL": "http://acc.blob.core.windows.net"}),
        ("az://container", {"AZURE_STORAGE_ACCOUNT_URL": "http://127.0.0.1.example.com/acc"}),
        (
            "az://container",
            {STRING: "AccountName=a;AccountKey=k;DefaultEndpointsProtocol=http"},
        ),
        (
            "az://container",
            {STRING: "BlobEndpoint=http://a.example.com;AccountKey=k"},
        ),
    ],
)
def test_wherever_an_address_comes_from_it_is_https_or_this_machine(
    text: str, env: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="https"):
        open_store(text, **env)


def test_a_name_that_looks_like_this_machine_gets_no_secret(azurite: Azurite) -> None:
    env = {"AZURE_STORAGE_ACCOUNT_KEY": azurite.account_key}
    with pytest.raises(AccessError, match="no credential is known"):
        open_store("https://127.example.com/container", **env)


def test_the_emulators_own_connection_string_is_known() -> None:
    settings = Settings.from_mapping({STRING: "UseDevelopmentStorage=true"})
    account = find_account(parse_store("az://container"), settings.azure)
    assert (account.url, account.name) == ("http://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1")
