"""Lossless codecs for the chunks of a delta file: bytes in, bytes out, no I/O.

`chunks.ChunkCodec` encodes and decodes a chunk of a tensor, `corrections` what rounding lost beside it.
Numbers are little-endian everywhere, with nothing between them.

An encoded chunk is empty if the chunk has no elements; otherwise its first byte is the method's code and
the method's own bytes follow, to the end. How many elements there are, and of how many bytes, is known
from outside.

| code | method | bytes that follow | elements |
|---|---|---|---|
| 0 | raw | the elements | of any width |
| 1 | constant | one element, or nothing if it is all zero bytes | of any width |
| 2 | entropy-coded | see `pipeline.codecs.rans` | of 1 or 2 bytes |
| 3 | split | see `pipeline.codecs.split` | of 2, 4 or 8 bytes |
"""
