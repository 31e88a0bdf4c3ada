"""What stores over a network have in common: how much is under way at once, and how reading begins."""

from __future__ import annotations

from pipeline.storage.errors import truncated

# Blocks in some worker's hands where reading or writing is a round trip. Not all of them wait: some are
# worked on, or wait for their turn. How many requests a service really gets, `Traffic` finds out.
REMOTE_WORKERS = 12


class RemoteReader:
    """The frame of a `Reader` of one blob over a network: nothing is asked for that is not there."""

    is_remote = True

    def __init__(self, name: str, *, nbytes: int, version: str) -> None:
        self.name = name
        self.nbytes = nbytes
        self.version = version

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; see `Reader.read_into`."""
        wanted = offset + len(buffer)
        if wanted > self.nbytes:
            raise truncated(self.name, end=self.nbytes, wanted=wanted)
        self._fill(offset, buffer)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, where it all is."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to let go of: connections belong to the client."""
