"""An independent decoder, from the format's description alone: plain Python, slow on purpose."""

from __future__ import annotations

import struct

import numpy as np

TOTAL, LOWEST = 8192, 1 << 15


def decode(payload: bytes, count: int, itemsize: int) -> bytes:
    """The bytes of a chunk of `count` elements of `itemsize` bytes."""
    if not count:
        assert payload == b""
        return b""
    method, rest = payload[0], payload[1:]
    if method == 0:
        return rest
    if method == 1:
        return (rest or bytes(itemsize)) * count
    if method == 2:
        return entropy_coded(rest, count, itemsize)
    assert method == 3, method
    (size,) = struct.unpack_from("<I", rest)
    half = np.dtype(f"<u{itemsize // 2}")
    out = np.empty((count, 2), half)
    for which, part in enumerate((rest[4 : 4 + size], rest[4 + size :])):
        out[:, which] = np.frombuffer(decode(part, count, itemsize // 2), half)
    if itemsize == 2:
        rotated = out.view("<u2")
        out = rotated >> 1 | rotated << 15
    return out.tobytes()


def entropy_coded(data: bytes, count: int, itemsize: int) -> bytes:
    lanes, symbols, escaped, placeholder, words = struct.unpack_from("<BHIHI", data)
    at = 13
    numbers = []
    for _ in range(2 * symbols):
        number = shift = 0
        while True:
            number, shift, at = number | (data[at] & 127) << shift, shift + 7, at + 1
            if data[at - 1] < 128:
                break
        numbers.append(number)
    values = [sum(numbers[: k + 1]) + k for k in range(symbols)]
    frequencies = numbers[symbols:]
    owner, first = [], []
    for k in range(symbols):
        first.append(len(owner))
        owner += [k] * frequencies[k]
    assert len(owner) == TOTAL
    stack = np.frombuffer(data, "<u2", words, at).tolist()
    at += 2 * words
    states = np.frombuffer(data, "<u4", lanes, at).tolist()
    at += 4 * lanes
    out = np.empty(count, f"<u{itemsize}")
    for i in reversed(range(count)):
        x = states[i % lanes]
        slot = x % TOTAL
        k = owner[slot]
        out[i] = values[k]
        x = frequencies[k] * (x // TOTAL) + slot - first[k]
        if x < LOWEST:
            x = x << 16 | stack.pop()
        states[i % lanes] = x
    assert not stack and set(states) == {LOWEST}
    if escaped:
        out[out == placeholder] = np.frombuffer(decode(data[at:], escaped, 2), "<u2")
    else:
        assert at == len(data)
    return out.tobytes()
