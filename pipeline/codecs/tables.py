"""Constants of the entropy coder that its format, its kernels and its callers share.

See `pipeline.codecs.rans` for the format.
"""

from __future__ import annotations

from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

MAX_ELEMENTS = CHUNK_ELEMENTS  # of a chunk

BITS = 13  # of a frequency: 2^13 slots of 6 bytes, which nearly fit the first-level cache
TOTAL = 1 << BITS  # what a table's frequencies add up to
LOWEST = 1 << 15  # a state is at least this and below 2^31
LANES = 64  # states that take turns: four vectors of 16, to hide the time that each waits
MAX_SYMBOLS = 4096  # that the encoder puts into a table; at most `TOTAL` could be decoded

SAMPLE = 64  # of a large chunk the first elements of every period are counted...
SAMPLE_PERIOD = 264  # ...which is no multiple of a row's length, so that all columns are seen
