"""A chunk of a tensor, encoded by whichever method takes the fewest bytes.

    codec = ChunkCodec()                                  # one per thread
    size = codec.encode(data, 2, out)                     # out: at least encoded_bound(len(data)) bytes
    codec.decode(out[:size], 2, again, where="x.delta")

`pipeline.codecs` describes the bytes.
"""

from __future__ import annotations

from pipeline.codecs.base import Damage, Method
from pipeline.codecs.plain import Constant, Raw
from pipeline.codecs.rans import Rans
from pipeline.codecs.split import Split
from pipeline.codecs.tables import MAX_ELEMENTS
from pipeline.errors import CorruptFile
from pipeline.tensors.dtypes import Bytes


def encoded_bound(nbytes: int) -> int:
    """The most bytes that a chunk of `nbytes` takes: raw, with its method's code."""
    return nbytes + 1


class ChunkCodec:
    """Encodes and decodes chunks. An instance belongs to one thread: it reuses its scratch space.

    vectors: whether to use the loops for AVX-512 where there are any; the bytes are the same.
    """

    def __init__(self, *, vectors: bool = True) -> None:
        self._raw = Raw()
        self._rans = Rans(vectors=vectors)
        # In the order in which they are tried: the first that beats raw bytes wins, for each refuses
        # what the next is better at.
        self._clever: tuple[Method, ...] = (Constant(), self._rans, Split())
        self._by_code: dict[int, Method] = {m.code: m for m in (self._raw, *self._clever)}

    def encode(self, data: Bytes, itemsize: int, out: Bytes) -> int:
        """Encode elements of `itemsize` bytes into `out`; returns how many bytes that took.

        data: raw bytes, of at most `MAX_ELEMENTS` whole elements. out: at least `encoded_bound` bytes,
        of which those behind the result may be written too.
        """
        _check_size(data, itemsize)
        size = self.encode_part(data, itemsize, out)
        if size is None:
            raise ValueError(f"{len(out)} bytes have no room for a chunk of {len(data)}")
        return size

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, *, where: str | None = None) -> None:
        """Fill `out`, whose size says how many elements there are, from all of `payload`.

        Raises CorruptFile for bytes that mean nothing, or not so many elements. Bytes that were changed
        so that they mean others are for digests to find.
        """
        _check_size(out, itemsize)
        try:
            self.decode_part(payload, itemsize, out)
        except Damage as damage:
            raise CorruptFile(str(damage), where=where) from None

    def encode_part(self, data: Bytes, itemsize: int, out: Bytes, *, coded: bool = True) -> int | None:
        """See `pipeline.codecs.base.Nested`."""
        if not len(data):
            return 0
        if not len(out):
            return None
        less_than_raw = out[1 : len(data)]
        for method in self._clever:
            if method is self._rans and itemsize == 2 and not coded:
                continue
            size = method.encode(data, itemsize, less_than_raw, self)
            if size is not None:
                out[0] = method.code
                return 1 + size
        size = self._raw.encode(data, itemsize, out[1:], self)
        out[0] = self._raw.code
        return None if size is None else 1 + size

    def decode_part(self, payload: Bytes, itemsize: int, out: Bytes, *, coded: bool = True) -> None:
        """See `pipeline.codecs.base.Nested`."""
        if not len(payload) or not len(out):
            if len(payload) or len(out):
                raise Damage(f"a chunk of {len(out)} bytes is encoded in {len(payload)}")
            return
        method = self._by_code.get(int(payload[0]))
        if method is None:
            raise Damage(f"unknown codec method {payload[0]}: a newer version of this tool may know it")
        if method is self._rans and itemsize == 2 and not coded:
            raise Damage("escaped elements are entropy-coded again")
        method.decode(payload[1:], itemsize, out, self)


def _check_size(data: Bytes, itemsize: int) -> None:
    if len(data) % itemsize or len(data) > MAX_ELEMENTS * itemsize:
        raise ValueError(f"{len(data)} bytes are no chunk of elements of {itemsize} bytes")
