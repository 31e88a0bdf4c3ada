"""What doctor looks at elsewhere: the store's account and container, and the Hub.

Each check returns what it found, raises a PipelineError, or `Skipped` if there is nothing to look at.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

from pipeline.errors import AccessError, CorruptFile, NotFound, PipelineError
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.locations import Location, Scheme
from pipeline.storage.opening import open_folder

_CONTENT = b"written by cli.py doctor, to be deleted at once\n"


class Skipped(Exception):
    """There is nothing to look at; the text says why."""


def check_credentials(store: Location, settings: Settings) -> str:
    """What opens the container, and whether a signed-in identity gives a token."""
    from pipeline.storage.azure.credentials import find_account
    from pipeline.storage.azure.errors import explained
    from pipeline.storage.azure.identity import SCOPE, RunCredential
    from pipeline.storage.azure.sign_in import claims

    _require_container(store)
    account = find_account(store, settings.azure)
    credential = account.credential()
    if not isinstance(credential, RunCredential):
        return account.kind
    with explained(account.url):
        token = credential.get_token_info(SCOPE)
    said = claims(token.token)
    ids = [
        f"{what} {said[name]}" for name, what in (("oid", "object"), ("tid", "tenant")) if name in said
    ]
    return ", ".join([f"the signed-in identity by {credential.kind}", *ids])


def check_account(store: Location, settings: Settings) -> str:
    """The account answers, and its clock is ours. Raises AccessError."""
    from pipeline.storage.azure.credentials import find_account
    from pipeline.storage.azure.reaching import server_time
    from pipeline.storage.azure.refusals import clock_text, skew

    _require_container(store)
    try:
        url = find_account(store, settings.azure).url
    except PipelineError:
        raise Skipped("first see to the credentials") from None
    theirs = server_time(url)
    ahead = skew(theirs)
    if ahead is not None:
        hint = "set it: timedatectl set-ntp true; signatures and tokens hold the time"
        raise AccessError(clock_text(ahead), where=url, hint=hint)
    return f"{url} answers" + ("; the clocks agree" if theirs else "")


def check_container(store: Location, settings: Settings) -> str:
    """The container is there, and may be listed."""
    opened = _open(store, settings)
    first = next(iter(opened.list()), None)
    return f"{opened.url} can be listed" + ("" if first else "; it is empty")


def check_blob(store: Location, settings: Settings) -> str:
    """A small blob can be written, read and deleted; it is gone afterwards.

    Raises AccessError and CorruptFile.
    """
    opened = _open(store, settings)
    name = f".doctor-{secrets.token_hex(8)}"
    try:
        with opened.create(name, size_hint=len(_CONTENT), overwrite=False) as writer:
            writer.write(0, _CONTENT)
            writer.commit()
        content = bytearray(len(_CONTENT))
        opened.open(name).read_into(0, memoryview(content))
    except BaseException:
        with suppress(PipelineError):
            _remove(opened, name)
        raise
    try:
        _remove(opened, name)
    except AccessError as error:
        raise AccessError(
            f"can be written and read, but nothing can be deleted: {error.what}",
            where=f"{opened.url}/{name}",
            hint="deltas need no more; models do. Delete this blob, and add d to the SAS's permissions, "
            "or give the identity the role Storage Blob Data Contributor",
        ) from error
    if content != _CONTENT:
        hint = "something on the way changes content: a proxy?"
        raise CorruptFile("was read back with other bytes", where=f"{opened.url}/{name}", hint=hint)
    return "a small blob was written, read and deleted"


def _remove(store: Store, name: str) -> None:
    with suppress(NotFound):
        for blob in store.list(name):
            store.delete(blob)


def check_hub(token: str | None) -> str:
    """The Hub answers, and knows the token if there is one."""
    from huggingface_hub import constants

    from pipeline.storage.hub.access import hub_user

    if constants.HF_HUB_OFFLINE:
        raise Skipped("HF_HUB_OFFLINE is set")
    endpoint, user = hub_user(token)
    return f"{endpoint} answers" + (
        f", signed in as {user}" if user else "; no token: public models only"
    )


def _require_container(store: Location) -> None:
    if store.scheme is not Scheme.AZURE:
        raise Skipped("the store is a folder")


def _open(store: Location, settings: Settings) -> Store:
    _require_container(store)
    return open_folder(store, settings)
