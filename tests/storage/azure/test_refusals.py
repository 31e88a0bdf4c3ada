"""What people read when Azure lets them not in: the cause, and the next step.

Azurite has no roles, firewall or tenants; a small server gives the answers that Azure documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from servers.azurite import Azurite
from servers.refusing import Refusing
from servers.tokens import OBJECT, Certificate, Tokens
from storage.helpers import open_store, put

from pipeline.errors import AccessError, PipelineError, Unreachable
from pipeline.storage import retry
from pipeline.storage.azure import identity as azure_identity
from pipeline.storage.azure import refusals as azure_refusals
from pipeline.storage.azure import sign_in as azure_sign_in
from pipeline.storage.base import Store

KEY = "Y2FuYXJ5LWluLWEtY29hbC1taW5l"
OTHER_TENANT = "77777777-6666-5555-4444-333333333333"


@pytest.fixture
def refusing(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.path)
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(azure_identity, "_made", {})
    with Refusing(certificate) as server:
        yield server


def message(store: Store) -> str:
    """What the store says when it refuses; always with a hint, in one line, and exit code 5."""
    with pytest.raises(AccessError) as error:
        store.stat("x")
    assert error.value.hint and error.value.where
    assert type(error.value).exit_code == 5
    return str(error.value)


def by_role(refusing: Refusing, tokens: Tokens, folder: Path) -> Store:
    env = {**tokens.environment("secret", folder), "AZURE_STORAGE_ACCOUNT_URL": refusing.url}
    return open_store(f"{refusing.url}/container", **env)


def by_key(refusing: Refusing) -> Store:
    return open_store(f"{refusing.url}/container", AZURE_STORAGE_ACCOUNT_KEY=KEY)


def by_sas(refusing: Refusing, **changes: str) -> Store:
    later = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    fields = {"sv": "2022-11-02", "sp": "rl", "se": later, "sig": "c2ln", **changes}
    text = "&".join(f"{name}={value}" for name, value in fields.items())
    return open_store(f"{refusing.url}/container?{text}")


def test_a_missing_role_is_named_and_so_is_who_lacks_it(
    refusing: Refusing, tokens: Tokens, tmp_path: Path
) -> None:
    refusing.code = "AuthorizationPermissionMismatch"
    text = message(by_role(refusing, tokens, tmp_path))
    assert "Storage Blob Data Contributor" in text
    assert OBJECT in text
    assert "az role assignment create" in text


def test_a_sas_without_the_permission_says_which_it_has_and_which_it_needs(refusing: Refusing) -> None:
    refusing.code = "AuthorizationPermissionMismatch"
    text = message(by_sas(refusing, sp="rl"))
    assert "its permissions are rl" in text
    assert "rwdlc" in text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AuthorizationResourceTypeMismatch", "sco"),
        ("AuthorizationServiceMismatch", "not for blobs"),
        ("AuthorizationSourceIPMismatch", "IP addresses"),
        ("AuthorizationProtocolMismatch", "HTTPS"),
        ("AuthenticationFailed", "signature of the SAS was refused"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_each_refusal_of_a_sas_has_its_own_message(refusing: Refusing, code: str, words: str) -> None:
    refusing.code = code
    assert words in message(by_sas(refusing))


def test_a_sas_that_is_over_says_since_when(refusing: Refusing) -> None:
    assert "expired at 2024-02-03 04:05 UTC" in message(by_sas(refusing, se="2024-02-03T04:05:06Z"))
    assert "expired at 2024-02-03 00:00 UTC" in message(by_sas(refusing, se="2024-02-03"))


def test_a_sas_that_has_not_begun_says_when_it_will(refusing: Refusing) -> None:
    assert "valid only from 2999-01-01" in message(by_sas(refusing, st="2999-01-01", se="2999-02-01"))


def test_an_expired_and_a_narrow_sas_are_told_apart_by_a_real_server(azurite: Azurite) -> None:
    name = azurite.create_container().container_name
    over = azurite.sas_token(lifetime=timedelta(hours=-1))
    ended = datetime.now(UTC) - timedelta(hours=1)
    assert f"expired at {ended:%Y-%m-%d}" in message(open_store(f"{azurite.url}/{name}?{over}"))
    narrow = open_store(f"{azurite.url}/{name}?{azurite.sas_token('rl')}")
    with pytest.raises(AccessError, match="its permissions are rl"):
        put(narrow, "x", b"ab")
    assert "key was refused" in message(
        open_store(f"{azurite.url}/{name}", AZURE_STORAGE_ACCOUNT_KEY=KEY)
    )


@pytest.mark.parametrize(("hours", "word"), [(-2, "ahead"), (2, "behind")])
def test_a_wrong_clock_says_by_how_much(
    refusing: Refusing, tokens: Tokens, tmp_path: Path, hours: int, word: str
) -> None:
    there = datetime.now(UTC) + timedelta(hours=hours)
    refusing.headers["Date"] = format_datetime(there, usegmt=True)
    for store in (by_key(refusing), by_role(refusing, tokens, tmp_path)):
        text = message(store)
        assert f"clock is 2 hours {word}" in text or "clock is 120 minutes" in text
        assert word in text


def test_a_wrong_clock_is_not_blamed_for_a_missing_role(
    refusing: Refusing, tokens: Tokens, tmp_path: Path
) -> None:
    refusing.code = "AuthorizationPermissionMismatch"
    refusing.headers["Date"] = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    assert "lacks a role" in message(by_role(refusing, tokens, tmp_path))


def test_a_token_of_another_tenant_names_both(
    refusing: Refusing, tokens: Tokens, tmp_path: Path
) -> None:
    refusing.status, refusing.code = 401, "InvalidAuthenticationInfo"
    place = f"https://login.microsoftonline.com/{OTHER_TENANT}/oauth2/authorize"
    refusing.headers["WWW-Authenticate"] = (
        f"Bearer authorization_uri={place} resource_id=https://storage.azure.com"
    )
    text = message(by_role(refusing, tokens, tmp_path))
    assert OTHER_TENANT in text
    assert "az login --tenant" in text


def test_a_token_that_is_refused_for_no_known_reason_says_to_sign_in_again(
    refusing: Refusing, tokens: Tokens, tmp_path: Path
) -> None:
    refusing.status, refusing.code = 401, "InvalidAuthenticationInfo"
    assert "az login" in message(by_role(refusing, tokens, tmp_path))


def test_disabled_keys_say_to_sign_in(refusing: Refusing) -> None:
    refusing.code = "KeyBasedAuthenticationNotPermitted"
    for store in (by_key(refusing), by_sas(refusing)):
        text = message(store)
        assert "takes no keys" in text
        assert "az login" in text
    assert refusing.asked == 2  # a refusal is not asked again


def test_the_firewall_is_told_from_a_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only by an account's own address: Azurite says AuthorizationFailure of any credential."""
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline.transport import HttpRequest

    from pipeline.storage.azure.refusals import refusal

    request = HttpRequest("GET", "https://acc.blob.core.windows.net/c/x")
    request.headers["Authorization"] = "SharedKey acc:c2ln"
    answer = type("Answer", (), {"request": request, "headers": {}, "status_code": 403, "reason": ""})
    text = str(refusal(HttpResponseError(response=answer()), "AuthorizationFailure", "az://c/x"))
    assert "firewall" in text
    assert "--account-name acc " in text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AADSTS7000222: The provided client secret keys are expired.", "secret has expired"),
        ("AADSTS700016: Application was not found in the directory.", "does not know this application"),
        ("AADSTS90002: Tenant not found.", "no such tenant"),
        ("AADSTS700213: No matching federated identity record found.", "federated credential"),
        ("AADSTS700024: Client assertion is not within its valid time range.", "ID token"),
        ("AADSTS53003: Access has been blocked by Conditional Access.", "AADSTS53003"),
    ],
)
def test_each_refusal_to_sign_in_has_its_own_message(
    refusing: Refusing, tokens: Tokens, tmp_path: Path, code: str, words: str
) -> None:
    tokens.refuse = (400, code)
    text = message(by_role(refusing, tokens, tmp_path))
    assert words in text and code.partition(":")[0] in text
    assert refusing.asked == 0


def test_a_wrong_client_secret_is_said_to_be_wrong(
    refusing: Refusing, tokens: Tokens, tmp_path: Path
) -> None:
    env = {**tokens.environment("secret", tmp_path), "AZURE_CLIENT_SECRET": "canary-wrong-secret"}
    store = open_store(f"{refusing.url}/container", AZURE_STORAGE_ACCOUNT_URL=refusing.url, **env)
    text = message(store)
    assert "client secret is wrong" in text
    assert "canary" not in text


def test_github_without_the_permission_says_which_it_needs(
    refusing: Refusing, tokens: Tokens, tmp_path: Path
) -> None:
    env = {**tokens.environment("github", tmp_path), "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "canary-wrong"}
    store = open_store(f"{refusing.url}/container", AZURE_STORAGE_ACCOUNT_URL=refusing.url, **env)
    assert "id-token: write" in message(store)


def test_nobody_signed_in_says_what_was_tried(
    refusing: Refusing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    env = {"AZURE_STORAGE_ACCOUNT_URL": refusing.url, "AZURE_TOKEN_CREDENTIALS": "dev"}
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    text = message(open_store(f"{refusing.url}/container", **env))
    assert "no credential was found; tried: " in text
    assert "AzureCli" in text and "az login" in text
    assert refusing.asked == 0


def test_an_account_that_is_not_there_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.storage.blob import ExponentialRetry

    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.01)
    store = open_store("https://nobody.blob.invalid/container?sig=c2ln")
    with pytest.raises(Unreachable, match="no such account"):
        store.stat("x")


def test_an_untrusted_certificate_says_where_to_name_its_authority(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import ExponentialRetry

    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.01)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(PipelineError, match="REQUESTS_CA_BUNDLE"):
        by_key(refusing).stat("x")


def test_a_message_has_no_token(refusing: Refusing, tokens: Tokens, tmp_path: Path) -> None:
    refusing.code = "AuthorizationPermissionMismatch"
    text = message(by_role(refusing, tokens, tmp_path))
    assert tokens.issued and not any(token in text for token in tokens.issued)


def test_every_message_is_explained_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "azure.md").read_text()
    messages = {what for what, _ in [*azure_refusals._CODES.values(), *azure_sign_in._SIGN_IN.values()]}
    for message in messages:
        assert re.split(r"\{\w+\}", message)[0] in text, message
