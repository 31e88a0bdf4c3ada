"""A sum with differences keeps to its memory, and to itself what opens its models."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from models import cast, near, write_model
from operations.conftest import Family
from operations.test_fused import TOLD_BY_LOCATION, fused

from pipeline import Difference, apply
from pipeline.errors import (
    PipelineError,
    UsageError,
)
from pipeline.units import MIB, parse_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_memory_that_is_asked_for_is_a_bound(tmp_path: Path, dtype: torch.dtype) -> None:
    """Where every element has a remainder and an exception, and two differences are added."""
    base = {"w": torch.randn(1_300_000, generator=torch.Generator().manual_seed(1))}
    tiny = {"w": near(base, 3, scale=1)["w"] * 2.0**-20}
    models = {"base": base, "post": tiny, "new": near(base, 2)}
    folders = {name: str(write_model(tmp_path / name, cast(s, dtype))) for name, s in models.items()}
    terms = [((folders["base"], folders["post"]), 0.5), ((folders["post"], folders["base"]), 0.1)]
    fused(tmp_path, folders["new"], terms[:1])  # what is imported stays
    with pytest.raises(UsageError, match="memory") as error:
        fused(tmp_path, folders["new"], terms, memory="1MiB")
    least = re.search(r"\d+MiB", str(error.value))
    assert least
    tracemalloc.start()
    try:
        fused(tmp_path, folders["new"], terms, memory=least[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < parse_bytes(least[0]) + 2 * MIB


def test_models_may_lie_in_containers_and_no_token_is_shown(family: Family, cloud: Cloud) -> None:
    for name in ("base", "post"):
        cloud.upload(family.folder / name, f"models/{name}")
    address, _, token = cloud.url.partition("?")
    secret = token.partition("sig=")[2]
    pair = tuple(f"{address}/models/{name}?{token}" for name in ("base", "post"))
    difference = Difference(*pair)
    report = apply(family.new_base, [difference], f"{address}/out?{token}")
    same = fused(family.folder, family.new_base, [((family.base, family.post), 1.0)])
    assert report.fingerprint == same.fingerprint
    with pytest.raises(PipelineError) as error:
        apply(family.add("small", {"w": torch.ones(1)}), [difference], f"{address}/other?{token}")
    said = [cloud.read(f"out/{name}").decode() for name in TOLD_BY_LOCATION]
    assert [
        text for text in (repr(difference), repr(report), str(error.value), *said) if secret in text
    ] == []
    assert f"{address}/models/post" in said[0]
