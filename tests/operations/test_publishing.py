"""What compute and apply leave behind: all of a result under its name, or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import cast, random_state, same_bits
from operations.conftest import Family

from pipeline import apply, compute
from pipeline.deltas.delta import open_delta
from pipeline.errors import (
    CorruptFile,
    Mismatch,
    NotACheckpoint,
    NotFound,
    OutputExists,
    PipelineError,
    QuantisedCheckpoint,
    StorageError,
    UsageError,
)

Snapshot = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def delta(family: Family) -> Path:
    path = family.folder / "d.safetensors"
    compute(family.base, family.post, str(path))
    return path


# -- existing outputs, dry runs ---------------------------------------------------------------


def test_an_existing_delta_is_refused_and_kept(family: Family, delta: Path, snapshot: Snapshot) -> None:
    before = snapshot(family.folder)
    for dry_run in (False, True):
        with pytest.raises(OutputExists, match="--overwrite"):
            compute(family.base, family.new_base, str(delta), dry_run=dry_run)
    assert snapshot(family.folder) == before


def test_an_existing_model_is_refused_and_kept(family: Family, delta: Path, snapshot: Snapshot) -> None:
    before = snapshot(family.folder)
    for dry_run in (False, True):
        for output in (family.post, str(delta)):
            with pytest.raises(OutputExists, match="--overwrite"):
                apply(family.base, [str(delta)], output, dry_run=dry_run)
    assert snapshot(family.folder) == before


def test_an_empty_folder_may_become_the_model(family: Family, delta: Path) -> None:
    (family.folder / "out").mkdir()
    assert apply(family.base, [str(delta)], str(family.folder / "out"), dry_run=True).dry_run
    apply(family.base, [str(delta)], str(family.folder / "out"))
    assert (family.folder / "out" / "config.json").exists()


def test_overwriting_replaces_the_whole_folder(family: Family, delta: Path) -> None:
    out = family.folder / "out"
    apply(family.base, [str(delta)], str(out), shard_size=4096)
    assert (out / "model.safetensors.index.json").exists()
    apply(family.new_base, [str(delta)], str(out), overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "paramdelta.json",
    ]
    compute(family.base, family.new_base, str(delta), overwrite=True)
    with open_delta(str(delta)) as opened:
        assert opened.manifest.post.location == family.new_base


def test_a_model_may_take_the_place_of_its_own_base(family: Family, delta: Path) -> None:
    post = family.state("post")
    apply(family.base, [str(delta)], family.base, overwrite=True)
    found = family.state("base")
    assert all(same_bits(found[name], post[name]) for name in post)


def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    family: Family, delta: Path, snapshot: Snapshot
) -> None:
    before = snapshot(family.folder)
    planned = compute(family.base, family.post, str(family.folder / "new"), dry_run=True)
    done = apply(family.new_base, [str(delta)], str(family.folder / "out"), dry_run=True)
    assert snapshot(family.folder) == before
    assert (planned.dry_run, done.dry_run) == (True, True)
    made = compute(family.base, family.post, str(family.folder / "new"))
    assert (planned.tensors, planned.read_bytes) == (made.tensors, made.read_bytes)
    assert planned.written_bytes == 2 * planned.elements  # the values, unpacked
    assert made.written_bytes == (family.folder / "new").stat().st_size
    applied = apply(family.new_base, [str(delta)], str(family.folder / "out"))
    assert (done.case, done.read_bytes, done.written_bytes) == (
        applied.case,
        applied.read_bytes,
        applied.written_bytes,
    )
    assert set(done.files) <= set(applied.files)


def test_the_report_names_every_file(family: Family, delta: Path) -> None:
    out = family.folder / "out"
    report = apply(family.base, [str(delta)], str(out), shard_size=4096)
    assert sorted(report.files) == sorted(path.name for path in out.iterdir())
    assert report.written_bytes == sum(path.stat().st_size for path in out.glob("*.safetensors"))


# -- damaged and unfit inputs -----------------------------------------------------------------


def publishes_nothing(
    family: Family, snapshot: Snapshot, run: Callable[[str], object], kind: type[PipelineError]
) -> str:
    """That `run` raises `kind` and leaves no file, hidden or not; returns what the error says."""
    before = snapshot(family.folder)
    with pytest.raises(kind) as error:
        run(str(family.folder / "result"))
    assert snapshot(family.folder) == before
    assert not (family.folder / "result").exists()
    return str(error.value)


@pytest.mark.parametrize("where", [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("onto", ["base", "new_base"])
def test_a_damaged_delta_publishes_nothing(
    family: Family, delta: Path, snapshot: Snapshot, where: float, onto: str
) -> None:
    data = bytearray(delta.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x10
    delta.write_bytes(data)
    base: str = getattr(family, onto)
    text = publishes_nothing(family, snapshot, lambda out: apply(base, [str(delta)], out), PipelineError)
    assert str(delta) in text


def test_every_byte_of_a_delta_is_protected(family: Family, delta: Path) -> None:
    """Each flipped byte is an error, or (in padding) changes nothing."""
    whole = delta.read_bytes()
    apply(family.base, [str(delta)], str(family.folder / "right"))
    right = family.state("right")
    step = max(1, len(whole) // 150)
    for at in range(3, len(whole), step):
        delta.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            apply(family.base, [str(delta)], str(family.folder / "out"), overwrite=True)
        except PipelineError:
            continue
        found = family.state("out")
        assert all(same_bits(found[name], right[name]) for name in right), f"byte {at}"


@pytest.mark.parametrize("keep", [0, 7, 100, 0.3, 0.9, 0.999])
def test_a_truncated_delta_publishes_nothing(
    family: Family, delta: Path, snapshot: Snapshot, keep: float
) -> None:
    data = delta.read_bytes()
    delta.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    publishes_nothing(family, snapshot, lambda out: apply(family.base, [str(delta)], out), CorruptFile)


def test_a_truncated_model_publishes_nothing(family: Family, delta: Path, snapshot: Snapshot) -> None:
    weights = Path(family.post) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    text = publishes_nothing(
        family, snapshot, lambda out: compute(family.base, family.post, out), CorruptFile
    )
    assert str(weights) in text
    publishes_nothing(family, snapshot, lambda out: apply(family.post, [str(delta)], out), CorruptFile)


def test_models_that_do_not_fit_are_refused_with_every_difference(
    family: Family, delta: Path, snapshot: Snapshot
) -> None:
    state = cast(random_state(1, width=24, layers=5))
    state["extra.weight"] = torch.zeros(2, dtype=torch.bfloat16)
    other = family.add("other", state)
    for run in (
        lambda out: compute(family.base, other, out),
        lambda out: apply(other, [str(delta)], out),
        lambda out: apply(other, [str(delta)], out, dry_run=True),
    ):
        text = publishes_nothing(family, snapshot, run, Mismatch)
        assert "18 tensors do not fit" in text
        assert "and 8 more" in text


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("./none", NotACheckpoint),
        ("/nonexistent/model.safetensors", NotFound),
        ("no such thing", UsageError),
        (".", NotACheckpoint),
    ],
)
def test_an_input_that_is_not_there_publishes_nothing(
    family: Family, delta: Path, snapshot: Snapshot, location: str, kind: type[PipelineError]
) -> None:
    publishes_nothing(family, snapshot, lambda out: compute(location, family.post, out), kind)
    publishes_nothing(family, snapshot, lambda out: compute(family.base, location, out), kind)
    publishes_nothing(family, snapshot, lambda out: apply(location, [str(delta)], out), kind)


def test_a_model_is_not_a_delta(family: Family, snapshot: Snapshot) -> None:
    weights = f"{family.post}/model.safetensors"
    text = publishes_nothing(
        family, snapshot, lambda out: apply(family.base, [weights], out), UsageError
    )
    assert "not a delta" in text


def test_a_quantised_model_is_refused_by_its_method(family: Family, snapshot: Snapshot) -> None:
    quantised = family.add(
        "quantised", family.state("post"), quantization_config={"quant_method": "gptq"}
    )
    text = publishes_nothing(
        family, snapshot, lambda out: compute(family.base, quantised, out), QuantisedCheckpoint
    )
    assert "gptq" in text


def test_a_result_larger_than_the_disk_is_refused_at_the_start(family: Family) -> None:
    """A sparse file is a model for which no room is left."""
    count = shutil.disk_usage(family.folder).free // 2 + (1 << 30)
    header = b'{"w":{"dtype":"BF16","shape":[%d],"data_offsets":[0,%d]}}' % (count, 2 * count)
    weights = family.folder / "huge.safetensors"
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)
    with pytest.raises(StorageError, match="no space left"):
        compute(str(weights), str(weights), str(family.folder / "out"))
    assert not list(family.folder.glob("*out*"))


def test_the_tokenizers_must_agree(family: Family, delta: Path, snapshot: Snapshot) -> None:
    for name, tokens in (("base", '{"a": 0, "b": 1}'), ("post", '{"c": 0, "d": 1}')):
        (family.folder / name / "tokenizer.json").write_text(f'{{"model": {{"vocab": {tokens}}}}}')
    text = publishes_nothing(
        family, snapshot, lambda out: compute(family.base, family.post, out), Mismatch
    )
    assert "'a'" in text
