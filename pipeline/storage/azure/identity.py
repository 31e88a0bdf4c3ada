"""The identity that is signed in to Microsoft Entra: one credential object for a whole run.

In GitHub Actions with `id-token: write`, a fresh ID token is fetched each time that an access token is
due, so that a job outlives the five minutes of its first one. Everywhere else azure-identity looks for
what there is: a service principal in the environment, a workload or managed identity, `az login`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import AccessError, Unreachable, UsageError
from pipeline.redaction import know
from pipeline.settings import AzureSettings
from pipeline.storage.azure.sign_in import no_token
from pipeline.storage.retry import retried

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, AccessTokenInfo

AUDIENCE = "api://AzureADTokenExchange"
SCOPE = "https://storage.azure.com/.default"
DUE_S = 300  # a token with less to live is replaced, as the SDK has it
_TIMEOUT_S = 30
_TRIES = 3  # of GitHub's service; whoever wants the token has more patience
_AUTHORITIES = (  # any other needs no permission of Microsoft's: a private cloud, or a test
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
)
_GITHUB = (
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
)
_EXPLICIT = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE")

# The one thing that outlives a run: a token costs a start of `az` or a round trip, and
# a batch opens a store for each step. All that says who is signed in is part of the key.
_lock = threading.Lock()
_made: dict[tuple[tuple[str, str], ...], RunCredential] = {}


class RunCredential:
    """What all clients of a run ask for tokens: each is fetched once, and again before it ends.

    Clients keep a token each; without this, every one of them would run `az` or ask the endpoint.
    """

    def __init__(self, inner: Any, kind: str) -> None:
        self._inner = inner
        self._kind = kind
        self._lock = threading.Lock()
        self._tokens: dict[tuple[Any, ...], AccessTokenInfo] = {}

    @property
    def kind(self) -> str:
        """What it is, for people; of several ways, the one that gave a token."""
        successful = getattr(self._inner, "_successful_credential", None)
        return type(successful).__name__ if successful else self._kind

    def get_token_info(self, *scopes: str, options: Any = None) -> AccessTokenInfo:
        """An access token that is good for a while; the SDK calls this before each request."""
        key = (scopes, *sorted((options or {}).items()))
        with self._lock:
            token = self._tokens.get(key)
            if token is None or _is_due(token):
                token = self._tokens[key] = self._renewed(token, scopes, options)
            return token

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """The same for older clients."""
        from azure.core.credentials import AccessToken

        known = {name: options[name] for name in ("claims", "tenant_id") if options.get(name)}
        token = self.get_token_info(*scopes, options=known)
        return AccessToken(token.token, token.expires_on)

    def _renewed(self, old: AccessTokenInfo | None, scopes: Any, options: Any) -> AccessTokenInfo:
        """A new token, or the old one while that is good and there is no other."""
        try:
            token: AccessTokenInfo = self._ask(scopes, options)
        except AccessError:
            if old is None or old.expires_on - time.time() < DUE_S / 10:
                raise
            return old
        know(token.token)
        return token

    def _ask(self, scopes: Any, options: Any) -> AccessTokenInfo:
        """A new token. Errors are ours at once: the SDK would ask for it again and again."""
        from azure.core import exceptions as azure

        try:
            token: AccessTokenInfo = self._inner.get_token_info(*scopes, options=options or {})
        except azure.ClientAuthenticationError as error:
            raise no_token(error) from error
        except azure.AzureError as error:
            raise Unreachable(
                f"the service that signs in does not answer ({type(error).__name__})",
                hint="check AZURE_AUTHORITY_HOST, the network and proxies, REQUESTS_CA_BUNDLE",
            ) from error
        return token


def _is_due(token: AccessTokenInfo) -> bool:
    now = time.time()
    return token.expires_on - now < DUE_S or bool(token.refresh_on and token.refresh_on <= now)


def signed_in(settings: AzureSettings) -> RunCredential:
    """The run's one credential for what the environment says of who is signed in.

    Nothing is asked until a token is wanted. Raises UsageError for settings that cannot mean anything.
    """
    with _lock:
        if settings.identity not in _made:
            _made[settings.identity] = _make(dict(settings.identity))
        return _made[settings.identity]


def uses_github(env: Mapping[str, str]) -> bool:
    """Whether GitHub's ID tokens are the way to sign in: they are there, and nothing else was chosen."""
    chosen = env.get("AZURE_TOKEN_CREDENTIALS", "prod").strip().lower()
    return all(map(env.get, _GITHUB)) and chosen == "prod" and not any(map(env.get, _EXPLICIT))


def _make(env: Mapping[str, str]) -> RunCredential:
    from azure.identity import ClientAssertionCredential, DefaultAzureCredential

    authority = env.get("AZURE_AUTHORITY_HOST", _AUTHORITIES[0])
    host = urlsplit(authority if "://" in authority else f"https://{authority}").hostname
    try:
        with _environment(env):  # azure-identity reads no other
            if uses_github(env):
                fetch = _github_tokens(
                    env["ACTIONS_ID_TOKEN_REQUEST_URL"], env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
                )
                found: Any = ClientAssertionCredential(
                    env["AZURE_TENANT_ID"], env["AZURE_CLIENT_ID"], fetch
                )
                return RunCredential(found, "GitHub Actions OIDC")
            found = DefaultAzureCredential(disable_instance_discovery=host not in _AUTHORITIES)
            return RunCredential(found, "DefaultAzureCredential")
    except ValueError as error:
        raise UsageError(
            f"the settings of the Azure identity cannot be used: {error}",
            hint="check AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_AUTHORITY_HOST, AZURE_TOKEN_CREDENTIALS",
        ) from error


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with what `.env` says of the identity; the real one wins."""
    added = [name for name in env if not os.environ.get(name)]
    before = {name: os.environ.get(name) for name in added}
    os.environ.update({name: env[name] for name in added})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _github_tokens(url: str, request_token: str) -> Callable[[], str]:
    """A function that fetches a fresh ID token of this job from GitHub each time it is called."""

    def ask() -> str:
        import requests

        try:
            answer = requests.get(
                url,
                params={"audience": AUDIENCE},
                headers={"Authorization": f"Bearer {request_token}", "Accept": "application/json"},
                timeout=_TIMEOUT_S,
            )
        except requests.RequestException as error:
            raise Unreachable(
                f"GitHub's token service does not answer ({type(error).__name__})",
                hint="run the job again",
            ) from error
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise Unreachable(f"GitHub's token service answered {answer.status_code}")
        try:
            token = answer.json()["value"] if answer.ok else None
        except (ValueError, KeyError, TypeError):
            token = None
        if not isinstance(token, str):
            raise AccessError(
                f"GitHub gave this job no ID token ({answer.status_code})",
                hint="the workflow needs `permissions: id-token: write`; see docs/azure.md",
            )
        know(token)
        return token

    return lambda: retried(ask, tries=_TRIES)
