"""A reader of deltas from docs/delta-format.md alone, with no code of ours; it trusts what it reads."""

import json
import math
import struct

import numpy as np
import zstandard

OWN, CHUNK, KEYS = "__paramdelta__.", 524288, ("name", "shape", "stored", "base", "post")
NANS = {"BF16": 0x7FC0, "F16": 0x7E00, "F32": 0x7FC00000, "F64": 0x7FF8 << 48}  # all float formats


def size(form):
    return int(form.strip("BFUICOL") or 8) // 8


def read_safetensors(data):
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {n: e["data_offsets"] for n, e in json.loads(data[8:begin]).items() if "shape" in e}
    return {name: data[begin + low : begin + high] for name, (low, high) in tensors.items()}


def decode(data, n, w):
    if n and data[0] == 2:
        return decode_rans(data[1:], n, w)
    if n and data[0] == 3:
        end = 5 + int.from_bytes(data[1:5], "little")
        low, high = (decode(part, n, w // 2).astype(f"<u{w}") for part in (data[5:end], data[end:]))
        whole = low | high << 4 * w
        return whole >> 1 | whole << 15 if w == 2 else whole
    return np.frombuffer((data[1:] or bytes(w)) * n if n and data[0] else data[1:], f"<u{w}")


def decode_rans(data, n, w):
    lanes, symbols, escaped, placeholder, words = struct.unpack_from("<BHIHI", data)
    at, numbers = 13, []
    while len(numbers) < 2 * symbols:
        end = next(i for i in range(at, at + 3) if data[i] < 128) + 1
        numbers.append(sum((byte & 127) << 7 * i for i, byte in enumerate(data[at:end])))
        at = end
    gaps, frequencies = np.array(numbers).reshape(2, symbols)
    rows = np.cumsum(gaps + 1) - 1, frequencies, np.cumsum(frequencies) - frequencies
    value, frequency, first = (np.repeat(row, frequencies).tolist() for row in rows)  # for each slot
    stack = np.frombuffer(data, "<u2", words, at).tolist()
    states = np.frombuffer(data, "<u4", lanes, at + 2 * words).tolist()
    out = np.empty(n, f"<u{w}")
    for i in range(n - 1, -1, -1):
        x, slot = divmod(states[i % lanes], 8192)
        out[i] = value[slot]
        x = frequency[slot] * x + slot - first[slot]
        states[i % lanes] = x << 16 | stack.pop() if x < 32768 else x
    assert not stack and set(states) == {32768}
    if escaped:
        out[out == placeholder] = decode(data[at + 2 * words + 4 * lanes :], escaped, 2)
    return out


def corrections(data, packed, w, post):
    counts, at, found = struct.unpack_from("<II", data) if data else (0, 0), 8, []
    for n, width in zip(np.repeat(counts, 2), (4, w, 4, post), strict=True):
        begin = at + 4 * packed
        at = begin + (int.from_bytes(data[at:begin], "little") if packed else n * width)
        found.append(decode(data[begin:at] if packed else b"\0" + data[begin:at], n, width))
    if packed:  # gaps, zigzag
        found[0::2] = [np.cumsum(gaps.astype(int) + 1) - 1 for gaps in found[0::2]]
        found[1] = found[1] // 2 ^ -(found[1] % 2)
    return found


def widen(raw, form, width):
    values = (raw.astype("<u4") << 16).view("<f4") if form == "BF16" else raw.view(f"<f{size(form)}")
    return values.astype(f"<f{width}")


def narrow(values, form):
    near = values.astype("<f4" if form == "BF16" else f"<f{size(form)}")
    raw = near.view(f"<u{near.itemsize}")
    if form == "BF16":  # by way of F32; where that is a tie, F64 knows to which side
        side = np.sign(np.abs(np.nan_to_num(values)) - np.abs(np.nan_to_num(near))).astype(int)
        raw = raw.astype(int) + np.where(raw % 65536 == 32768, side, 0)
        raw = (raw + 0x7FFF + (raw >> 16 & 1) >> 16).astype("<u2")
    return np.where(np.isnan(values), raw.dtype.type(NANS[form]), raw)


def read_delta(data, base):
    """By name d, the bytes of post and those of its companions. `base`: its weights file."""
    tensors, before, exact, post = read_safetensors(data), read_safetensors(base), {}, {}
    manifest = json.loads(tensors[OWN + "manifest"])
    packed = manifest["codec"] == "rans"
    grown, index = tensors[OWN + ("packed" if packed else "corrections")], tensors[OWN + "index"]
    parts = iter(np.split(np.frombuffer(grown, "u1"), np.frombuffer(index, "<u8")[1:-1].astype(int)))
    for name, shape, form, old, new in ([record[key] for key in KEYS] for record in manifest["tensors"]):
        width, w, isfloat = 8 if "F64" in (old, new) else 4, size(form), form in NANS
        whole = b"" if packed else tensors[name if isfloat else OWN + "carried." + name]
        exact[name], post[name] = np.empty(0, f"<f{width}"), b""
        for start in range(0, math.prod(shape), CHUNK):
            n = min(CHUNK, math.prod(shape) - start)
            part = next(parts).tobytes() if packed else b"\0" + whole[start * w : (start + n) * w]
            stored = decode(part, n, w)
            at, rest, lost_at, lost = corrections(next(parts).tobytes(), packed, width, size(new))
            if isfloat:
                d, total = widen(stored, form, width), np.zeros(n, f"<f{width}")
                d.view(f"<u{width}")[at] += rest
                known = np.frombuffer(before[name], f"<u{size(old)}")[start : start + n]
                total[: len(known)] = widen(known, old, width)
                stored, exact[name] = narrow(total + d, new), np.append(exact[name], d)
                stored[lost_at] = lost
            post[name] += stored.tobytes()
    files = ((name, tensors[OWN + "file." + name]) for name in manifest["files"])
    unzip = zstandard.ZstdDecompressor().decompress
    return exact, post, {name: unzip(file[32:]) if packed else file for name, file in files}
