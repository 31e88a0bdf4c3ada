"""The method on state dicts in memory, for notebooks and small models.

    delta = calculate_delta(post, base)          # float32, exact
    new_post = apply_delta(new_base, delta, 1.0)

The same formulas as the streamed commands: float32 (float64 for float64), rounded once at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import Mismatch, UsageError

if TYPE_CHECKING:
    import torch

StateDict = Mapping[str, "torch.Tensor"]


def calculate_delta(post: StateDict, base: StateDict) -> dict[str, torch.Tensor]:
    """post - base for every float tensor, as float32 (float64 where either side is float64).

    Tensors that are not float are left out: they are never added. Raises Mismatch.
    """
    _require_same(post, base, "post", "base")
    return {
        name: tensor.to(_width(tensor, base[name])) - base[name].to(_width(tensor, base[name]))
        for name, tensor in post.items()
        if tensor.is_floating_point()
    }


def apply_delta(base: StateDict, delta: StateDict, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """base + scale * delta in base's dtypes, rounded once; what the delta lacks is base's own.

    Raises Mismatch for a tensor of the delta that base has not, or has with another shape.
    """
    from pipeline.tensors.torch_arithmetic import round_once

    known = {name: base[name] for name in delta if name in base}
    _require_same(known, delta, "base", "delta")
    result = dict(base)
    for name, change in delta.items():
        width = _width(base[name], change)
        factor = base[name].new_tensor(scale, dtype=width)
        result[name] = round_once(base[name].to(width) + factor * change.to(width), base[name].dtype)
    return result


def combine_deltas(
    deltas: Sequence[StateDict], weights: Sequence[float] | None = None
) -> dict[str, torch.Tensor]:
    """The sum of weight * delta, as float32 or float64. `weights` are 1 each if not given.

    Raises UsageError for no deltas or another number of weights, and Mismatch.
    """
    factors = [1.0] * len(deltas) if weights is None else list(weights)
    if not deltas or len(factors) != len(deltas):
        raise UsageError(
            f"{len(deltas)} deltas with {len(factors)} weights", hint="give one weight each"
        )
    for number, delta in enumerate(deltas[1:], 2):
        _require_same(deltas[0], delta, "delta 1", f"delta {number}")
    total: dict[str, torch.Tensor] = {}
    for name in deltas[0]:
        changes = [delta[name] for delta in deltas]
        width = _width(*changes)
        terms = [
            c.new_tensor(f, dtype=width) * c.to(width) for c, f in zip(changes, factors, strict=True)
        ]
        total[name] = sum(terms[1:], terms[0])
    return total


def _width(*tensors: torch.Tensor) -> torch.dtype:
    import torch

    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _require_same(left: StateDict, right: StateDict, left_is: str, right_is: str) -> None:
    """Same names and shapes on both sides, or a Mismatch that lists every difference."""
    problems = [f"{name} is only in {left_is}" for name in sorted(left.keys() - right.keys())]
    problems += [f"{name} is only in {right_is}" for name in sorted(right.keys() - left.keys())]
    problems += [
        f"{name} is {tuple(left[name].shape)} in {left_is}, {tuple(right[name].shape)} in {right_is}"
        for name in left
        if name in right and left[name].shape != right[name].shape
    ]
    problems += [
        f"{name} is {left[name].dtype} in {left_is}, {right[name].dtype} in {right_is}"
        for name in left
        if name in right and left[name].is_floating_point() != right[name].is_floating_point()
    ]
    if problems:
        raise Mismatch(
            problems, where=f"{left_is} and {right_is}", hint="they must be of one architecture"
        )
