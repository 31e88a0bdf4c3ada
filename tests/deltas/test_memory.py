"""The memory that is asked for is a bound: on everything, however much rounding loses."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import cast, near, write_model

from pipeline import apply, combine, compute, convert, verify
from pipeline.errors import UsageError
from pipeline.storage.local.store import LocalWriter
from pipeline.units import MIB, parse_bytes

SLACK = 2 * MIB  # manifests, tables and headers: what grows with the number of tensors
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64


def peak(function: Callable[[], object]) -> int:
    """Bytes that Python and numpy hold at most while `function` runs, on top of what they hold now."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def least(run: Callable[[str], object]) -> str:
    """The memory that the refusal of too little asks for."""
    with pytest.raises(UsageError, match="memory") as error:
        run("1MiB")
    return re.search(r"\d+MiB", str(error.value))[0]


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    """Several chunks a tensor. To take a `tiny` post from the base loses something in every element."""
    seeded = torch.Generator().manual_seed(1)
    base = {f"w{i}": torch.randn(700_000, generator=seeded) for i in range(2)}
    tiny = {name: tensor * 2.0**-20 for name, tensor in near(base, 3, scale=1).items()}
    return {"base": base, "near": near(base, 2), "tiny": tiny}


@pytest.mark.parametrize("codec", ["rans", "none"])
@pytest.mark.parametrize(
    ("post", "dtype", "stored", "workers", "block_mib"),
    [
        ("near", BF16, "auto", 2, 1),
        ("tiny", BF16, "auto", 1, 1),
        ("tiny", BF16, "auto", 2, 8),  # several chunks a block, as in a container
        ("tiny", F32, "bfloat16", 2, 1),
        ("tiny", F64, "bfloat16", 1, 1),
    ],
    ids=str,
)
def test_everything_stays_within_its_memory(
    tmp_path: Path, monkeypatch, states, codec, post, dtype, stored, workers, block_mib
):
    """With the least that one worker, and its smallest block, can do with; and as much for each."""
    for side, name in (("base", "base"), ("post", post)):
        write_model(tmp_path / side, cast(states[name], dtype))
    write_model(tmp_path / "small", {"w": torch.ones(2)})
    small, base, after = (str(tmp_path / name) for name in ("small", "base", "post"))
    delta, sum_, other = (str(tmp_path / f"{n}.safetensors") for n in ("delta", "sum", "other"))
    compute(small, small, delta)  # what is imported stays
    monkeypatch.setattr(LocalWriter, "block_bytes", block_mib * MIB)
    again = {"none": "rans", "rans": "none"}[codec]
    operations: dict[str, Callable[..., object]] = {
        "compute": lambda **limits: compute(
            base, after, delta, codec=codec, dtype=stored, overwrite=True, **limits
        ),
        "apply": lambda **limits: apply(base, [delta], str(tmp_path / "out"), overwrite=True, **limits),
        "fuse": lambda **limits: apply(
            after, [delta, (delta, 0.5)], str(tmp_path / "out"), overwrite=True, **limits
        ),
        "verify": lambda **limits: verify(delta, base=base, post=after, **limits),
        "combine": lambda **limits: combine([(delta, 0.5), (delta, 2.0)], sum_, codec=codec, **limits),
        "convert": lambda **limits: convert(delta, other, codec=again, **limits),
    }
    taken = {}
    for name, operation in operations.items():
        enough = least(lambda memory, run=operation: run(memory=memory, workers=1))
        memory = parse_bytes(enough) * workers
        used = peak(lambda run=operation, most=memory: run(memory=most, workers=workers))
        taken[name] = (used - SLACK) / memory
    assert {name: share for name, share in taken.items() if share > 1} == {}
