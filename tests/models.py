"""Small real checkpoints for tests: safetensors files with known values, made by the library itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]


def random_state(seed: int, *, vocab: int = 50, width: int = 16, layers: int = 2) -> State:
    """A Llama-shaped state dict in float32, seeded."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    state = {"model.embed_tokens.weight": normal(vocab, width)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        state[f"{prefix}.self_attn.q_proj.weight"] = normal(width, width)
        state[f"{prefix}.mlp.up_proj.weight"] = normal(3 * width, width)
        state[f"{prefix}.input_layernorm.weight"] = 1 + normal(width)
    state["model.norm.weight"] = 1 + normal(width)
    return state


def near(state: State, seed: int, *, scale: float = 1e-3, vocab: int | None = None) -> State:
    """`state` after a small random change; with `vocab`, its embedding grown to that many rows."""
    generator = torch.Generator().manual_seed(seed)
    changed = {n: t + scale * torch.randn(t.shape, generator=generator) for n, t in state.items()}
    name = "model.embed_tokens.weight"
    if vocab is not None:
        rows = vocab - len(changed[name])
        fresh = torch.randn(rows, changed[name].shape[1], generator=generator) * 0.02
        changed[name] = torch.cat([changed[name], fresh])
    return changed


def layered_state(layers: int, nbytes: int, seed: int) -> State:
    """Tensors of that many bytes each in bfloat16, quick to make: noise that is repeated and moved."""
    noise = torch.randn(1 << 19, generator=torch.Generator().manual_seed(seed)) * 0.02
    rows = noise.to(torch.bfloat16).reshape(512, -1)
    times = nbytes // (2 * rows.numel())
    return {f"layers.{n}.w": torch.cat([rows + n * 1e-3] * times) for n in range(layers)}


def cast(state: State, dtype: torch.dtype = torch.bfloat16) -> State:
    """All tensors in `dtype`."""
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def write_model(folder: Path, state: State, **config: object) -> Path:
    """A model folder with `state` in one safetensors file and a config; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {n: t.contiguous() for n, t in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    embedding = state.get("model.embed_tokens.weight")
    vocab = {} if embedding is None else {"vocab_size": len(embedding)}
    fields = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **vocab, **config}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def read_model(folder: Path) -> State:
    """All tensors of a folder's safetensors files."""
    state: State = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(load_file(path))
    return state


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors are equal in dtype, shape and every bit: NaN payloads and -0.0 count."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    ours, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right))
    return torch.equal(ours, theirs)


def formula(base: torch.Tensor, *terms: tuple[float, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """base + the sum of scale * (post - old base), in float32 (float64 if any is), rounded once.

    The independent reference: whole tensors, torch only. Rows that a side lacks count as zero.
    """
    sides = [base, *(tensor for _, post, old in terms for tensor in (post, old))]
    width = torch.float64 if any(t.dtype == torch.float64 for t in sides) else torch.float32
    shape = max((t.shape for t in sides), key=lambda shape: shape.numel())

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        full = torch.zeros(shape, dtype=width)
        if tensor.dim():
            full[: len(tensor)] = tensor.to(width)
        else:
            full.copy_(tensor)
        return full

    total = padded(base)
    for scale, post, old in terms:
        total = total + torch.tensor(scale, dtype=width) * (padded(post) - padded(old))
    return total.to(base.dtype)
