"""convert: the same delta in the other form of the file, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clouds import Cloud
from deltas.surgery import flipped, take_apart
from models import cast, near, random_state
from operations.conftest import Family, Snapshot
from safetensors.torch import load_file

from pipeline import apply, combine, compute, convert, verify
from pipeline.deltas.format import CODECS
from pipeline.errors import CorruptFile, NotFound, OutputExists, PipelineError, UsageError
from pipeline.operations.apply import SAME_BASE

OTHER = {"none": "rans", "rans": "none"}


@pytest.fixture
def forms(family: Family) -> dict[str, Path]:
    """A delta with something in each of its parts, in each form."""
    state = cast(random_state(1)) | {"ids": torch.arange(5), "empty": torch.zeros(0, 3)}
    post = cast(near(random_state(1), 2, scale=0.05, vocab=57))
    post |= {"ids": torch.arange(5) * 2, "empty": torch.zeros(0, 3)}
    post["model.norm.weight"][:2] = torch.tensor([torch.nan, -0.0])
    family.add("base", state)
    family.add("post", post)
    (Path(family.post) / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (Path(family.post) / "chat_template.jinja").write_text("{{ messages }}" * 100)
    found = {codec: family.folder / f"{codec}.safetensors" for codec in CODECS}
    for codec, path in found.items():
        made = compute(family.base, family.post, str(path), codec=codec)
        assert made.remainders and made.exceptions and made.carried
    return found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("workers", [1, 3])
def test_there_and_back_gives_the_same_bytes(
    forms: dict[str, Path], tmp_path: Path, codec: str, workers: int
) -> None:
    """Each form is also, bit for bit, what compute would have written."""
    over, back = tmp_path / "over", tmp_path / "back"
    convert(str(forms[codec]), str(over), codec=OTHER[codec], workers=workers)
    convert(str(over), str(back), codec=codec, workers=workers)
    assert over.read_bytes() == forms[OTHER[codec]].read_bytes()
    assert back.read_bytes() == forms[codec].read_bytes()


@pytest.mark.parametrize("codec", CODECS)
def test_several_chunks_a_tensor_go_there_and_back(family: Family, tmp_path: Path, codec: str) -> None:
    big = {f"w{i}": torch.randn(700_000, generator=torch.Generator().manual_seed(i)) for i in range(2)}
    family.add("base", cast(big))
    family.add("post", cast(near(big, 5, scale=0.5)))
    files = [str(tmp_path / name) for name in ("one", "over", "back")]
    compute(family.base, family.post, files[0], codec=codec)
    convert(files[0], files[1], codec=OTHER[codec], workers=3, memory="256MiB")
    convert(files[1], files[2], codec=codec, workers=2)
    assert Path(files[0]).read_bytes() == Path(files[2]).read_bytes()


def test_a_delta_in_the_form_that_it_has_is_copied(forms: dict[str, Path], tmp_path: Path) -> None:
    for codec, path in forms.items():
        convert(str(path), str(tmp_path / codec), codec=codec)
        assert (tmp_path / codec).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("codec", CODECS)
def test_the_manifest_is_the_same_but_for_the_codec(
    forms: dict[str, Path], tmp_path: Path, codec: str
) -> None:
    report = convert(str(forms[codec]), str(tmp_path / "x"), codec=OTHER[codec])
    before, after = (take_apart(path).manifest for path in (forms[codec], tmp_path / "x"))
    assert (before.pop("codec"), after.pop("codec")) == (codec, OTHER[codec])
    assert before == after
    assert report.fingerprint == verify(str(forms[codec])).fingerprint
    assert report.written_bytes == (tmp_path / "x").stat().st_size


@pytest.mark.parametrize("codec", CODECS)
def test_a_converted_delta_restores_post(
    family: Family, forms: dict[str, Path], tmp_path: Path, codec: str
) -> None:
    path = str(tmp_path / "x.safetensors")
    convert(str(forms[codec]), path, codec=OTHER[codec])
    assert apply(family.base, [path], str(tmp_path / "out")).case == SAME_BASE
    assert verify(path, base=family.base, post=family.post).restores_post


def test_a_combination_is_converted_too(forms: dict[str, Path], tmp_path: Path) -> None:
    for codec in CODECS:
        path = tmp_path / f"{codec}-sum"
        combine([(str(forms["rans"]), 0.5)], str(path), codec=codec)
        convert(str(path), str(tmp_path / "x"), codec=OTHER[codec], overwrite=True)
        convert(str(tmp_path / "x"), str(tmp_path / "y"), codec=codec, overwrite=True)
        assert (tmp_path / "y").read_bytes() == path.read_bytes()


def test_unpacked_it_is_for_any_reader_of_safetensors(
    family: Family, forms: dict[str, Path], tmp_path: Path
) -> None:
    convert(str(forms["rans"]), str(tmp_path / "x.safetensors"), codec="none")
    found = load_file(tmp_path / "x.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    exact = family.state("post")[name].float() - family.state("base")[name].float()
    assert torch.equal(found[name], exact.bfloat16())


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_input_is_refused_and_nothing_is_written(
    forms: dict[str, Path], tmp_path: Path, snapshot: Snapshot, codec: str
) -> None:
    data = forms[codec].read_bytes()
    path = tmp_path / "damaged.safetensors"
    for at in range(5, len(data), len(data) // 50):
        path.write_bytes(flipped(data, at, at % 8))
        before = snapshot(tmp_path)
        with pytest.raises(PipelineError, match=r"damaged\.safetensors"):
            convert(str(path), str(tmp_path / "x"), codec=OTHER[codec])
        assert snapshot(tmp_path) == before
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptFile):
        convert(str(path), str(tmp_path / "x"), codec=OTHER[codec])


def test_a_dry_run_writes_nothing(forms: dict[str, Path], tmp_path: Path, snapshot: Snapshot) -> None:
    before = snapshot(tmp_path)
    report = convert(str(forms["rans"]), str(tmp_path / "x"), codec="none", dry_run=True)
    assert (report.dry_run, report.written_bytes, report.tensors) == (True, None, 10)
    assert snapshot(tmp_path) == before


def test_what_is_there_is_replaced_only_on_demand(forms: dict[str, Path], tmp_path: Path) -> None:
    """A delta may even take its own place."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(forms["rans"].read_bytes())
    for dry_run in (True, False):
        with pytest.raises(OutputExists, match="--overwrite"):
            convert(str(forms["none"]), str(path), codec="rans", dry_run=dry_run)
    convert(str(path), str(path), codec="none", overwrite=True)
    assert path.read_bytes() == forms["none"].read_bytes()


def test_conversions_that_mean_nothing_are_refused(
    family: Family, forms: dict[str, Path], tmp_path: Path
) -> None:
    for delta, codec, kind in (
        (str(forms["rans"]), "zip", UsageError),
        (f"{family.base}/model.safetensors", "none", UsageError),
        ("./none.safetensors", "none", NotFound),
        ("org/model@main", "none", NotFound),
    ):
        with pytest.raises(kind):
            convert(delta, str(tmp_path / "x"), codec=codec)
    assert not (tmp_path / "x").exists()


def test_between_a_container_and_a_folder_the_bytes_stay(
    forms: dict[str, Path], cloud: Cloud, tmp_path: Path
) -> None:
    convert(str(forms["rans"]), f"{cloud.location}/d.safetensors", codec="none")
    assert cloud.read("d.safetensors") == forms["none"].read_bytes()
    convert(f"{cloud.location}/d.safetensors", str(tmp_path / "x"), codec="rans")
    assert (tmp_path / "x").read_bytes() == forms["rans"].read_bytes()
