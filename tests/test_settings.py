"""Which store, account and credential the environment and `.env` name."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.azurite import Azurite

from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.storage.locations import parse_store
from pipeline.storage.opening import open_folder

SECRET = "Y2FuYXJ5LWluLWEtY29hbC1taW5l"


def test_with_nothing_set_deltas_lie_in_a_local_folder() -> None:
    assert Settings.from_mapping({}).store == "./store"


@pytest.mark.parametrize(
    "account",
    [
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=b"},
        {"AZURE_STORAGE_ACCOUNT_NAME": "acc"},
        {"AZURE_STORAGE_ACCOUNT": "acc"},
        {"AZURE_STORAGE_ACCOUNT_URL": "https://acc.blob.core.windows.net"},
    ],
)
def test_an_account_and_a_container_make_the_store(account: dict[str, str]) -> None:
    env = {**account, "AZURE_STORAGE_CONTAINER_NAME": "deltas"}
    assert Settings.from_mapping(env).store == "az://deltas"
    assert Settings.from_mapping(account).store == "./store"
    assert Settings.from_mapping({"AZURE_STORAGE_CONTAINER_NAME": "deltas"}).store == "./store"


def test_the_option_wins_over_the_environment_and_that_over_the_account() -> None:
    env = {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_CONTAINER_NAME": "deltas"}
    env["PIPELINE_STORE"] = "/deltas"
    assert Settings.from_mapping(env).store == "/deltas"
    assert Settings.from_mapping(env, store="./here").store == "./here"


def test_dotenv_is_read_and_the_real_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        "# a comment\nexport PIPELINE_STORE=./from-dotenv\nHF_TOKEN='from dotenv'\nAZURE_STORAGE_KEY=\n"
    )
    settings = Settings.load()
    assert (settings.store, settings.hub_token) == ("./from-dotenv", "from dotenv")
    assert settings.azure.account_key is None
    monkeypatch.setenv("PIPELINE_STORE", "./from-environment")
    assert Settings.load().store == "./from-environment"


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_hub_token_has_two_names(name: str) -> None:
    assert Settings.from_mapping({name: "token"}).hub_token == "token"


def test_secrets_are_kept_out_of_every_text() -> None:
    names = (
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "HF_TOKEN",
    )
    settings = Settings.from_mapping(dict.fromkeys(names, SECRET))
    for value in (settings, settings.azure):
        assert SECRET not in repr(value)
        assert SECRET not in str(value)
    assert settings.azure.account_key == SECRET  # it was there to be shown


@pytest.mark.parametrize("name", ["PIPELINE_STORE", "AZURE_STORAGE_ACCOUNT_URL"])
def test_an_address_with_a_signature_in_it_is_a_secret_too(name: str) -> None:
    """The portal's "Blob SAS URL" is such an address, and people paste it."""
    address = f"https://acc.blob.core.windows.net/container?sv=1&sig={SECRET}"
    assert SECRET not in repr(Settings.from_mapping({name: address}))


@pytest.mark.parametrize(
    "way",
    [
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_TOKEN with ?",
        "AZURE_STORAGE_ACCOUNT_URL with a SAS",
    ],
)
@pytest.mark.parametrize("named", ["az", "url"])
def test_each_credential_opens_the_container(azurite: Azurite, way: str, named: str) -> None:
    container = azurite.create_container()
    container.upload_blob("blob", b"content")
    values = {
        "AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string,
        "AZURE_STORAGE_ACCOUNT_KEY": azurite.account_key,
        "AZURE_STORAGE_KEY": azurite.account_key,
        "AZURE_STORAGE_SAS_TOKEN": azurite.sas_token(),
        "AZURE_STORAGE_SAS_TOKEN with ?": f"?{azurite.sas_token()}",
        "AZURE_STORAGE_ACCOUNT_URL with a SAS": f"{azurite.url}?{azurite.sas_token()}",
    }
    env = {way.partition(" ")[0]: values[way]}
    if "STRING" not in way:
        env.setdefault("AZURE_STORAGE_ACCOUNT_URL", azurite.url)
    name = container.container_name
    text = f"az://{name}" if named == "az" else f"{azurite.url}/{name}"
    store = open_folder(parse_store(text), Settings.from_mapping(env))
    found = store.stat("blob")
    assert found is not None
    assert found.nbytes == 7


def test_the_hubs_cache_is_used_as_the_option_says_and_else_the_environment() -> None:
    assert Settings.from_mapping({}).hub_cache == "auto"
    env = {"PIPELINE_HUB_CACHE": "off"}
    assert Settings.from_mapping(env).hub_cache == "off"
    assert Settings.from_mapping(env, hub_cache="on").hub_cache == "on"
    with pytest.raises(UsageError, match="PIPELINE_HUB_CACHE"):
        Settings.from_mapping({"PIPELINE_HUB_CACHE": "sometimes"})


def test_digests_are_kept_where_the_option_says_and_else_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    env = {"PIPELINE_DIGEST_CACHE": "on"}
    assert Settings.from_mapping({}).digest_cache is None
    assert Settings.from_mapping(env).digest_cache == Path("/caches/paramdelta/digests")
    assert Settings.from_mapping(env, digest_cache="off").digest_cache is None
    assert Settings.from_mapping(env, digest_cache="./here").digest_cache == Path("here")
