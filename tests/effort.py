"""How often chance is tried: a few times in `make test`, many in `make test-long`."""

import os


def times(few: int, many: int) -> int:
    """`few`, or `many` where LONG is set in the environment."""
    return many if os.environ.get("LONG") else few
