"""What Azure Blob Storage refuses, in our own errors, and which refusals are worth another try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import (
    CorruptFile,
    NotFound,
    PipelineError,
    StorageError,
    Unreachable,
)
from pipeline.storage.azure.reaching import unreached
from pipeline.storage.azure.refusals import refusal
from pipeline.storage.retry import retry_after_s

AGAIN = "check the network, then run the command again"
_GARBLED = ("Md5Mismatch", "Crc64Mismatch")  # a body that the wire spoiled: to be sent again


class Changed(StorageError):
    """Something that was to be changed only as it had been seen, and is no longer so."""


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what the SDK raises about `where` into our own errors, without its request's text.

    Raises Unreachable.
    """
    from azure.core import exceptions as azure

    try:
        yield
    except PipelineError as error:
        error.where = error.where or where  # who signs in does not know what for
        raise
    except azure.ClientAuthenticationError as error:
        raise refusal(error, error_code(error), where) from error
    except azure.HttpResponseError as error:
        raise _explain_answer(error, where) from error
    except azure.AzureError as error:
        what, hint = unreached(error)
        raise Unreachable(what, where=where, hint=hint) from error


def error_code(error: Any) -> str:
    """The service's own name for what went wrong, else the HTTP status."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or getattr(error, "status_code", None) or "no answer")


def _header(error: Any, name: str) -> str | None:
    """One header of the answer that an error is about, if there was an answer."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return headers.get(name)


def _explain_answer(error: Any, where: str) -> PipelineError:
    code, status = error_code(error), error.status_code
    match code, status:
        case "ContainerNotFound", _:
            hint = "create it: az storage container create --name NAME"
            return NotFound("there is no such container", where=where, hint=hint)
        case "InvalidBlobOrBlock", _:
            hint = "remove them by `cli.py clean`, or choose another name"
            return StorageError("unfinished blocks of another program lie there", where=where, hint=hint)
        case ("MemoryExtentStoreAtSizeLimit", _) | (_, 507):
            return StorageError("the store is full", where=where)
        case _, 416:
            return CorruptFile(
                "ends before the bytes that were asked for", where=where, hint="it is truncated"
            )
        case _, 404:
            return NotFound("no such blob", where=where)
        case _, 401 | 403:
            return refusal(error, code, where)
        case ("InvalidBlockList", _) | (_, 409 | 412):
            hint = "another run may be writing there: run the command again"
            return Changed(f"changed while it was in use ({code})", where=where, hint=hint)
    spoiled = status is not None and status < 300  # an answer that nobody can read
    passing = status is None or spoiled or status in (408, 429) or status >= 500 or code in _GARBLED
    what = f"the storage account answered {status} ({code})"
    if passing:
        return Unreachable(
            what,
            where=where,
            hint="run the same command again later",
            retry_after_s=retry_after_s(_header(error, "Retry-After")),
            status=status,
        )
    hint = "it does not take this request: check the address, and that this is Azure Blob Storage"
    return StorageError(what, where=where, hint=hint)
