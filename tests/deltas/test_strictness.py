"""Forged deltas whose digests all hold: what only a reader's other checks can see."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from models import write_model

from pipeline import apply, compute, convert, inspect, open_delta, verify
from pipeline.checkpoints.alignment import check_vocabulary
from pipeline.checkpoints.strict_json import MAX_VALUES
from pipeline.deltas import delta as opening
from pipeline.deltas.corrections import unpack
from pipeline.errors import CorruptFile, PipelineError, printable
from pipeline.tensors.dtypes import BF16, F32
from tests.deltas import golden
from tests.fuzz.draft import OWN, Draft


@pytest.fixture(params=golden.DELTAS)
def draft(request) -> Draft:
    """The golden delta, in either form."""
    return Draft.read((golden.FOLDER / f"{request.param}.safetensors").read_bytes())


@pytest.fixture
def forged(tmp_path: Path):
    """Write a draft as a file whose digests hold."""

    def write(draft: Draft) -> str:
        path = tmp_path / "forged.safetensors"
        path.write_bytes(draft.build())
        return str(path)

    return write


def record(draft: Draft, name: str) -> dict:
    return next(tensor.record for tensor in draft.tensors if tensor.record["name"] == name)


def test_a_forger_can_make_a_sound_file(draft, forged):
    verify(forged(draft), base=str(golden.FOLDER / "base"), post=str(golden.FOLDER / "post"))


@pytest.mark.parametrize("side", ["base", "post"])
@pytest.mark.parametrize("value", [None, {"location": "x", "revision": None, "fingerprint": "ab" * 32}])
def test_a_delta_can_not_claim_to_be_of_other_models(draft, forged, side, value):
    def lie(text: bytes) -> bytes:
        return json.dumps(json.loads(text) | {side: value}).encode()

    draft.on_manifest.append(lie)
    with pytest.raises(CorruptFile, match=side):
        open_delta(forged(draft))


def test_a_model_can_not_be_known_without_its_tensors(draft, forged):
    record(draft, "ids")["base_digest"] = None
    draft.tensors[1].chunks[0].digests[0] = bytes(32)
    with pytest.raises(CorruptFile, match="base"):
        open_delta(forged(draft))


def test_records_may_come_in_any_order(draft, forged, tmp_path):
    Random(1).shuffle(draft.tensors)
    path, other, back = forged(draft), str(tmp_path / "o.safetensors"), str(tmp_path / "b.safetensors")
    codec = draft.manifest["codec"]
    convert(path, other, codec={"rans": "none", "none": "rans"}[codec])
    convert(other, back, codec=codec)
    for each in (path, other, back):
        verify(each, base=str(golden.FOLDER / "base"), post=str(golden.FOLDER / "post"))


def test_what_is_carried_is_posts(draft, forged):
    tensor = next(tensor for tensor in draft.tensors if tensor.record["name"] == "mask")
    tensor.chunks[0].values = (b"\0" if draft.packed else b"") + b"\1\1\1"
    with pytest.raises(CorruptFile, match="carried"):
        open_delta(forged(draft))


@pytest.mark.parametrize(("name", "changed"), [("mask", 1), ("ids", 0)])
def test_whether_what_is_carried_changed_is_no_mere_claim(draft, forged, name, changed):
    record(draft, name)["changed"] = changed
    with pytest.raises(CorruptFile, match="carried"):
        open_delta(forged(draft))


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x7f", "__metadata__", OWN + "x"])
def test_names_that_no_tensor_may_have_are_refused(draft, forged, tmp_path, name):
    record(draft, "wide")["name"] = name
    with pytest.raises(CorruptFile):
        open_delta(forged(draft))
    if name != "__metadata__":  # which is no tensor's in any safetensors file
        for side in ("base", "post"):
            write_model(tmp_path / side, {name: torch.ones(1)})
        with pytest.raises(PipelineError, match="called"):
            compute(str(tmp_path / "base"), str(tmp_path / "post"), str(tmp_path / "d.safetensors"))


@pytest.mark.parametrize("key", ["shape", "base_shape"])
def test_a_shape_of_very_many_sizes_is_refused_at_once(draft, forged, key):
    record(draft, "wide")[key] = [1 << 62] * 200_000
    path = forged(draft)
    began = time.perf_counter()
    with pytest.raises(CorruptFile, match="larger than any file") as error:
        open_delta(path)
    assert time.perf_counter() - began < 2
    assert len(str(error.value)) < 11_000


def test_ten_thousand_tensors_are_opened_in_no_time(draft, forged):
    tensor = next(tensor for tensor in draft.tensors if not tensor.chunks)
    for number in range(10_000):
        draft.tensors.append(type(tensor)({**tensor.record, "name": f"more.{number}"}, []))
    path = forged(draft)
    began = time.perf_counter()
    open_delta(path).close()
    assert time.perf_counter() - began < 4


@pytest.mark.parametrize("version", [True, 1.0, "1", 2, None])
def test_the_version_is_a_number(draft, forged, version):
    draft.manifest["version"] = version
    with pytest.raises(CorruptFile, match="version"):
        open_delta(forged(draft))


def test_a_config_that_is_nested_without_end_is_refused(draft, forged):
    for depth, fits in ((63, True), (65, False), (900, False)):
        draft.manifest["post_config"] = '{"a":' * depth + "1" + "}" * depth
        path = forged(draft)
        if fits:
            open_delta(path).close()
        else:
            with pytest.raises(CorruptFile, match="manifest"):
                open_delta(path)


@pytest.mark.parametrize(
    "name",
    ["additional_chat_templates/x/y.jinja", f"additional_chat_templates/{'x' * 256}.jinja",
     "additional_chat_templates/" + "x/" * 2000 + "y.jinja", "additional_chat_templates/../x.jinja",
     "additional_chat_templates/a\nb.jinja", "additional_chat_templates/a\\b.jinja"],
    ids=lambda name: name[25:40],
)  # fmt: skip
def test_companions_lie_in_their_folder_and_not_below(draft, forged, name):
    draft.companions[name], draft.manifest["files"][name] = b"x", "0" * 64
    path = forged(draft)
    for read in (open_delta, inspect):
        with pytest.raises(CorruptFile, match="companion"):
            read(path)


def test_companions_together_have_a_limit(monkeypatch, draft, forged, tmp_path):
    """A bomb of many pieces, each of which would do."""
    for name in ("tokenizer.json", "merges.txt", "vocab.txt"):
        draft.companions[name], draft.manifest["files"][name] = bytes(90_000), "0" * 64
    path = forged(draft)
    verify(path)
    monkeypatch.setattr(opening, "MAX_COMPANION_BYTES", 200_000)
    for read in (verify, lambda path: apply(str(golden.FOLDER / "base"), [path], str(tmp_path / "out"))):
        with pytest.raises(CorruptFile, match="90000 bytes"):
            read(path)


def test_a_tokenizer_of_too_many_values_is_not_looked_into():
    bomb = b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]"
    check_vocabulary(b'{"model": {"vocab": {"a": 0}}}', bomb, where="x")


@pytest.mark.parametrize("positions", [[3, 2], [2, 2], [0, 5, 4]])
def test_corrections_out_of_order_are_refused(positions):
    """One place twice would mean one thing to one reader and another to the next."""
    counts = np.array([len(positions), 0], "<u4").tobytes()
    data = counts + np.array(positions, "<u4").tobytes() + bytes(4 * len(positions))
    with pytest.raises(CorruptFile, match="order"):
        unpack(np.frombuffer(data, np.uint8), elements=9, width=F32, post=BF16, where="x")


def test_corrections_of_nothing_take_no_bytes():
    with pytest.raises(CorruptFile, match="corrections"):
        unpack(np.zeros(8, np.uint8), elements=9, width=F32, post=BF16, where="x")


def test_what_files_say_of_themselves_is_shown_as_it_is():
    assert printable("plain é 模型\n\t") == "plain é 模型\n\t"
    assert printable("\x1b[2J\u202e\x00\u200b") == "\\x1b[2J\\u202e\\x00\\u200b"
    assert str(CorruptFile("\x1b]0;x\x07", where="a\rb")) == "a\\rb: \\x1b]0;x\\x07"
    assert len(str(CorruptFile("x" * 10**6))) < 11_000
