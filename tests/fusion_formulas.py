"""The methods of fusion as plain formulas on whole tensors, in torch: the independent reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from blake3 import blake3

Tensor = torch.Tensor
Thin = Callable[[int, Tensor], Tensor]


def trimmed(delta: Tensor, density: float) -> Tensor:
    """The largest elements; of equals those that come first."""
    count = max(1, int(density * delta.numel()))
    order = torch.sort(delta.abs().flatten(), descending=True, stable=True).indices
    mask = torch.zeros(delta.numel())
    mask[order[:count]] = 1
    return delta * mask.reshape(delta.shape)


def without_outliers(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Neither the smallest nor the largest."""
    count = delta.numel()
    target, top = int(density * count), int(gamma * count)
    bottom = max(0, count - target - top)
    order = torch.sort(delta.abs().flatten(), stable=True).indices
    mask = torch.zeros(count)
    mask[order[bottom : bottom + target]] = 1
    return delta * mask.reshape(delta.shape)


def uniform(seed: int, number: int, name: str, count: int) -> Tensor:
    """The random numbers of one tensor, in [0, 1): SplitMix64, in Python's integers' own arithmetic."""
    key = int.from_bytes(blake3(f"{seed} {number} {name}".encode()).digest()[:8], "little")
    mask = (1 << 64) - 1
    state = np.array([(key + (i + 1) * 0x9E3779B97F4A7C15) & mask for i in range(count)], np.uint64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return torch.from_numpy((state >> np.uint64(32)).astype(np.float64) / 2**32)


def chances(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """Of being kept, by rank within the row."""
    rows = delta.abs().reshape(-1, delta.shape[-1])
    width = rows.shape[1]
    ranks = torch.sort(rows, dim=1, stable=True).indices.argsort(dim=1).double()
    return (density - epsilon + ranks / (width - 1) * 2 * epsilon).reshape(delta.shape)


def rescaled(delta: Tensor, mask: Tensor) -> Tensor:
    """What the mask leaves, with the sum of sizes of the whole."""
    kept = delta * mask
    whole, rest = delta.double().abs().sum(), kept.double().abs().sum()
    return kept * (whole / rest).float()


def thinned(method: str, name: str, number: int, delta: Tensor, **given: Any) -> Tensor:
    """What a method leaves of one delta."""
    density, seed = given.get("density", 1.0), given.get("seed", 0)
    if density == 1:
        return delta
    if method == "ties":
        return trimmed(delta, density)
    if method == "breadcrumbs":
        return without_outliers(delta, density, given.get("gamma", 0.01))
    chance: Tensor | float = density
    if method == "della":
        chance = chances(delta, density, given.get("epsilon", 0.15))
    drawn = uniform(seed, number, name, delta.numel()).reshape(delta.shape)
    return rescaled(delta, (drawn < chance).float())


def elected(deltas: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """The sum of what has the sign of the sum."""
    stack = torch.stack(list(deltas))
    total = torch.zeros_like(stack[0])
    for each in stack:
        total = total + each
    mask = (stack.sign() == torch.where(total >= 0, 1.0, -1.0)).float()
    mixed, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for each, kept, weight in zip(stack, mask, weights, strict=True):
        mixed = mixed + each * kept
        divisor = divisor + torch.tensor(weight) * kept
    return mixed / torch.where(divisor == 0, 1.0, divisor) if normalize else mixed


def between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Spherical interpolation."""
    a, b = first.double(), second.double()
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if abs(cosine) > 0.9995:
        return (1 - share) * first + share * second
    angle = math.acos(cosine)
    ends = [math.sin(part * angle) / math.sin(angle) for part in (1 - share, share)]
    return (a * ends[0] + b * ends[1]).float()


def stock(base: Tensor, deltas: Sequence[Tensor]) -> Tensor:
    """Model Stock: the mean of the models, drawn towards the base by their angle."""
    wide = [delta.double() for delta in deltas]
    cosines = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in combinations(wide, 2)]
    count, mean = len(wide), sum(cosines) / len(cosines)
    share = count * mean / (1 + (count - 1) * mean)
    return (base.double() + share * sum(wide) / count).float()


def fused(
    method: str, name: str, base: Tensor, deltas: Sequence[Tensor], scales: Sequence[float], **given: Any
) -> Tensor:
    """What one tensor comes to, in the base's format. All arithmetic is in float32 or better."""
    wide = base.float()
    if method == "slerp":
        ends = [wide, *(wide + delta for delta in deltas)][-2:]
        share = scales[0] if len(scales) == 1 else scales[1] / sum(scales)
        return between(ends[0], ends[1], share).to(base.dtype)
    if method == "model_stock":
        return stock(wide, deltas).to(base.dtype)
    kept = [
        thinned(method, name, number, delta, **given) * torch.tensor(scale)
        for number, (delta, scale) in enumerate(zip(deltas, scales, strict=True))
    ]
    if method in ("ties", "della", "dare_ties"):
        mixed = elected(kept, scales, normalize=method != "dare_ties")
    else:
        mixed = torch.zeros_like(wide)
        for each in kept:
            mixed = mixed + each
    return (wide + mixed * torch.tensor(given.get("lambda_", 1.0))).to(base.dtype)


def ulps(left: Tensor, right: Tensor) -> Tensor:
    """How many bfloat16 numbers lie between, element by element."""

    def places(tensor: Tensor) -> Tensor:
        bits = tensor.to(torch.bfloat16).contiguous().view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (places(left) - places(right)).abs()
