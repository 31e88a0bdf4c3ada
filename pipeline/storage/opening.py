"""From a location to the store that it is in: the one place that knows every kind of store."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.locations import Location, Scheme, parse_store


def open_folder(location: Location, settings: Settings) -> Store:
    """The store whose root is the folder at `location` (not for the Hub). Raises UsageError."""
    match location.scheme:
        case Scheme.LOCAL:
            from pipeline.storage.local.store import LocalStore

            return LocalStore(Path(location.path), fsync=settings.fsync)
        case Scheme.AZURE:
            from pipeline.storage.azure.client import connect
            from pipeline.storage.azure.container import Container
            from pipeline.storage.azure.store import AzureStore

            found = connect(location, settings.azure)
            return AzureStore(Container(found, location.path, settings.azure.tier))
    raise UsageError(f"{location} is not a folder")


def open_parent(location: Location, settings: Settings) -> tuple[Store, str]:
    """The store that holds the one file or folder at `location`, and its name there.

    Raises UsageError.
    """
    if location.scheme is Scheme.STORE:
        return open_folder(parse_store(settings.store), settings), location.path
    if location.scheme is Scheme.LOCAL:
        path = Path(location.path).absolute()
        return open_folder(Location(Scheme.LOCAL, str(path.parent)), settings), path.name
    root = Location(location.scheme, "", None, location.account_url, location.container, location.sas)
    if not location.path:
        raise UsageError("a container, not a name in it", where=str(location), hint="add /name")
    return open_folder(root, settings), location.path
