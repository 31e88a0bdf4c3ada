"""With the old base at hand, apply says how far the new one is from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from operations.conftest import Family

from pipeline import apply, compute
from pipeline.errors import OtherCheckpoint


@pytest.fixture
def delta(family: Family, tmp_path: Path) -> str:
    path = str(tmp_path / "d.safetensors")
    compute(family.base, family.post, path)
    return path


def test_the_distance_is_that_of_all_weights_relative_to_the_old_base(
    family: Family, tmp_path: Path, delta: str
) -> None:
    old, new = family.state("base"), family.state("new-base")
    away = sum(float((new[name].double() - old[name].double()).square().sum()) for name in old)
    size = sum(float(tensor.double().square().sum()) for tensor in old.values())
    report = apply(family.new_base, [delta], str(tmp_path / "out"), old_base=family.base)
    assert report.base_distance == pytest.approx((away / size) ** 0.5, rel=1e-5)


def test_on_the_same_base_it_is_nothing(family: Family, tmp_path: Path, delta: str) -> None:
    report = apply(family.base, [delta], str(tmp_path / "out"), old_base=family.base)
    assert report.base_distance == 0


def test_without_the_old_base_nothing_is_said(family: Family, tmp_path: Path, delta: str) -> None:
    assert apply(family.new_base, [delta], str(tmp_path / "out")).base_distance is None


def test_another_old_base_is_refused_and_nothing_is_written(
    family: Family, tmp_path: Path, delta: str
) -> None:
    with pytest.raises(OtherCheckpoint, match="is not that of the base"):
        apply(family.new_base, [delta], str(tmp_path / "out"), old_base=family.new_base)
    assert not (tmp_path / "out").exists()
