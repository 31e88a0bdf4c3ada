"""Names that come from files, servers and configs are data: they must not leave their folder."""

from __future__ import annotations

from pipeline.errors import UsageError


def safe_name(name: str) -> str:
    """`name` itself, if it is a plain relative path with forward slashes.

    Raises UsageError for an empty or absolute name, `.` and `..` parts, backslashes, drive letters
    and control characters.
    """
    parts = name.split("/")
    bad = any(part in ("", ".", "..") for part in parts)
    if bad or "\\" in name or ":" in parts[0] or any(ord(char) < 32 for char in name):
        raise UsageError(f"{name!r} is not a name inside a store or folder", hint="use a/b.c")
    return name


def safe_prefix(prefix: str) -> str:
    """`prefix` itself, if a name that begins with it can be a `safe_name`. Raises UsageError."""
    safe_name(f"{prefix}x")
    return prefix
