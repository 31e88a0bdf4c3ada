"""The post model's tokenizer, template and generation config, on their way with the delta."""

from __future__ import annotations

import zstandard

from pipeline.deltas.format import PLAIN, Codec
from pipeline.errors import CorruptFile
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_bytes
from pipeline.units import MIB

MAX_COMPANION_BYTES = 256 * MIB  # of one, and of all together
_LEVEL = 12  # a tokenizer of 10 MB takes half a second, and a fifth of its size


def pack_file(content: bytes, codec: Codec) -> bytes:
    """The bytes that stand for a companion in one form of the file.

    Packed they have a digest of their own: zstd has bits that it does not look at.
    """
    if codec == PLAIN:
        return content
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
    return digest_bytes(packed).raw + packed


def unpack_file(data: bytes, codec: Codec, *, room: int, where: str) -> bytes:
    """The companion that `data` stands for. Raises CorruptFile, for more than `room` bytes too."""
    packed = data[DIGEST_BYTES:]
    if codec != PLAIN and digest_bytes(packed).raw != data[:DIGEST_BYTES]:
        raise CorruptFile("a companion does not match its digest", where=where)
    try:
        size = len(data) if codec == PLAIN else zstandard.frame_content_size(packed)
        if not 0 <= size <= room:
            raise CorruptFile(f"a companion has {size} bytes, and {room} would be too many", where=where)
        if codec == PLAIN:
            return data
        return zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptFile(f"a companion can't be decompressed: {error}", where=where) from None
