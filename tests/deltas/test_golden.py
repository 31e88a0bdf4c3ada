"""Files of the format's first version: read by others, read and written again by today's code."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from models import cast, near, random_state, read_model, same_bits, write_model

from pipeline import apply, compute, convert, verify
from pipeline.operations.apply import SAME_BASE
from tests.deltas import example, golden, independent_reader
from tests.deltas.independent_reader import OWN, read_delta, read_safetensors

SIDES = ("base", "post")
FORMS = list(golden.DELTAS)
FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def file(name: str) -> Path:
    return golden.FOLDER / f"{name}.safetensors"


def weights(side: str) -> bytes:
    return (golden.FOLDER / side / "model.safetensors").read_bytes()


def values(form: str, data: bytes) -> np.ndarray:
    """Float values in float64."""
    if form == "BF16":
        data, form = (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes(), "F32"
    with np.errstate(invalid="ignore"):
        return np.frombuffer(data, f"<f{independent_reader.size(form)}").astype("<f8")


# -- by others ----------------------------------------------------------------------------------


def test_the_independent_reader_is_short_and_has_no_code_of_ours():
    source = Path(independent_reader.__file__).read_text()
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert names - {"numpy", "zstandard"} <= set(sys.stdlib_module_names)
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)
    assert len([line for line in source.splitlines() if line]) < 100


@pytest.mark.parametrize("form", FORMS)
def test_the_independent_reader_restores_post_bit_for_bit(form):
    _, post, files = read_delta(file(form).read_bytes(), weights("base"))
    assert post == read_safetensors(weights("post"))
    assert files == {name: (golden.FOLDER / "post" / name).read_bytes() for name in files}
    assert set(files) == {"tokenizer.json", "generation_config.json"}


@pytest.mark.parametrize("form", FORMS)
def test_the_independent_reader_gives_the_exact_deltas(form):
    exact, _, _ = read_delta(file(form).read_bytes(), weights("base"))
    sides = [read_safetensors(weights(side)) for side in SIDES]
    manifest = json.loads(read_safetensors(file(form).read_bytes())[OWN + "manifest"])
    for record in manifest["tensors"]:
        if record["post"] not in independent_reader.NANS:
            assert not len(exact[record["name"]])
            continue
        base, post = (values(record[s], t[record["name"]]) for s, t in zip(SIDES, sides, strict=True))
        base = np.append(base, np.zeros(len(post) - len(base)))
        found = exact[record["name"]]
        wanted = (post.astype(found.dtype) - base.astype(found.dtype)).astype(found.dtype)
        np.testing.assert_array_equal(found, wanted)
        assert np.array_equal(np.signbit(found), np.signbit(wanted) & ~np.isnan(wanted))


@pytest.mark.parametrize("form", FORMS)
def test_digests_fold_as_the_specification_says(form):
    """For tensors of one chunk, which all of these are."""

    def digest(*parts: bytes | str) -> bytes:
        return blake3(b"".join(p.encode() if isinstance(p, str) else p for p in parts)).digest()

    tensors, columns = read_safetensors(file(form).read_bytes()), 4 if form == "packed" else 3
    manifest = json.loads(tensors[OWN + "manifest"])
    rows = iter(np.frombuffer(tensors[OWN + "digests"], "u1").reshape(-1, columns, 32))
    folded = {}
    for record in manifest["tensors"]:
        row = next(rows) if 0 not in record["shape"] else None
        for number, side in enumerate(("base", "post", "stored")):
            shape = record["base_shape" if side == "base" else "shape"]
            chunks = b"" if row is None else row[number].tobytes()
            head = f"paramdelta tensor 1\n{record[side]}\n{','.join(map(str, shape))}\n"
            folded[side, record["name"]] = digest(head, chunks)
            assert folded[side, record["name"]].hex() == record[f"{side}_digest"]
            if side != "stored" and row is not None:
                assert chunks == digest(read_safetensors(weights(side))[record["name"]])
    for side in ("base", "post"):
        mine = sorted((name, found) for (which, name), found in folded.items() if which == side)
        parts = [part for name, found in mine for part in (name, b"\0", found)]
        assert digest("paramdelta checkpoint 1\n", *parts).hex() == manifest[side]["fingerprint"]


@pytest.mark.parametrize(("base", "post"), list(product(FLOATS, FLOATS)), ids=str)
def test_the_independent_reader_reads_all_formats(tmp_path, base, post):
    state = random_state(1)
    write_model(tmp_path / "base", cast(state, base))
    write_model(tmp_path / "post", cast(near(state, 2, scale=0.01, vocab=53), post))
    for number, codec in enumerate(golden.DELTAS.values()):
        stored = ["auto", "bfloat16", "float16", "float64"][(FLOATS.index(base) + number) % 4]
        delta = tmp_path / f"{codec}.safetensors"
        compute(str(tmp_path / "base"), str(tmp_path / "post"), str(delta), codec=codec, dtype=stored)
        model = (tmp_path / "base" / "model.safetensors").read_bytes()
        wanted = read_safetensors((tmp_path / "post" / "model.safetensors").read_bytes())
        assert read_delta(delta.read_bytes(), model)[1] == wanted


@pytest.mark.parametrize("codec", golden.DELTAS.values())
def test_the_independent_reader_reads_several_chunks(tmp_path, codec):
    """Of 64 lanes, with escapes and a coded list of corrections."""
    state = {"w": torch.randn(540_000, generator=torch.Generator().manual_seed(1))}
    tuned = near(state, 2, scale=0.003)
    tuned["w"][::300] *= -1000
    for side, tensors in (("base", state), ("post", tuned)):
        write_model(tmp_path / side, cast(tensors))
    delta = tmp_path / "d.safetensors"
    report = compute(str(tmp_path / "base"), str(tmp_path / "post"), str(delta), codec=codec)
    assert report.remainders
    found = read_delta(delta.read_bytes(), (tmp_path / "base" / "model.safetensors").read_bytes())[1]
    assert found == read_safetensors((tmp_path / "post" / "model.safetensors").read_bytes())


# -- by today's code ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_todays_code_restores_post_from_the_golden_files(tmp_path, form):
    report = apply(str(golden.FOLDER / "base"), [str(file(form))], str(tmp_path / "out"), workers=1)
    assert report.case == SAME_BASE
    found, post = read_model(tmp_path / "out"), read_model(golden.FOLDER / "post")
    assert found.keys() == post.keys()
    assert all(same_bits(found[name], post[name]) for name in post)
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (golden.FOLDER / "post" / name).read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_todays_code_verifies_the_golden_files(form):
    sides = {side: str(golden.FOLDER / side) for side in ("base", "post")}
    assert verify(str(file(form)), **sides, workers=1).restores_post


@pytest.mark.parametrize("form", FORMS)
def test_todays_code_writes_the_golden_files_byte_for_byte(tmp_path, form):
    written = golden.write_delta(tmp_path / "d.safetensors", golden.DELTAS[form])
    assert written == file(form).read_bytes()


@pytest.mark.parametrize(("source", "target"), [FORMS, FORMS[::-1]], ids=str)
def test_one_golden_file_is_converted_into_the_other(tmp_path, source, target):
    path = tmp_path / "d.safetensors"
    convert(str(file(source)), str(path), codec=golden.DELTAS[target], workers=1)
    assert path.read_bytes() == file(target).read_bytes()


def test_the_golden_models_are_those_that_their_script_makes(tmp_path):
    base, post = golden.models()
    golden.write_model(tmp_path / "base", base, rows=6)
    golden.write_model(tmp_path / "post", post, rows=8)
    for side in ("base", "post"):
        assert (tmp_path / side / "model.safetensors").read_bytes() == weights(side)


def test_the_golden_files_have_something_of_everything():
    tensors = read_safetensors(file("packed").read_bytes())
    records = json.loads(tensors[OWN + "manifest"])["tensors"]
    index = np.frombuffer(tensors[OWN + "index"], "<u8").tolist()
    assert {tensors[OWN + "packed"][at] for at in index[:-1:2]} == {0, 1, 2, 3}
    assert all(sum(record[key] for record in records) for key in ("remainders", "exceptions"))
    assert {record["stored"] for record in records} >= {"BF16", "F16", "F32", "F64", "I64", "BOOL"}
    assert any(record["shape"] != record["base_shape"] for record in records)
    assert any(record["base"] != record["post"] for record in records)
    assert any(record["changed"] == 0 and record["post"] == "BF16" for record in records)
    assert sum(path.stat().st_size for path in golden.FOLDER.rglob("*") if path.is_file()) < 50_000


# -- the page -----------------------------------------------------------------------------------


def test_the_worked_example_of_the_specification_is_what_the_tool_writes():
    """If not, and the format was meant to change: `python -m tests.deltas.example`."""
    page = example.PAGE.read_text()
    assert example.filled(page) == page


@pytest.mark.parametrize("codec", golden.DELTAS.values())
def test_the_example_is_a_delta_that_anybody_reads(tmp_path, codec):
    data = example.write_example(tmp_path, codec)
    _, post, _ = read_delta(data, (tmp_path / "base" / "model.safetensors").read_bytes())
    assert post["w"] == example.POST.tobytes()
    shutil.rmtree(tmp_path / "post")
    apply(str(tmp_path / "base"), [str(tmp_path / "delta.safetensors")], str(tmp_path / "out"))
    assert read_safetensors((tmp_path / "out" / "model.safetensors").read_bytes()) == post
