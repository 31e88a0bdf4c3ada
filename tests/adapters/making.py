"""Adapters made by PEFT itself, with random weights, and what PEFT merges them into."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from models import read_model
from safetensors.torch import save_file
from sources import ROOT

from pipeline import open_checkpoint
from pipeline.checkpoints.adapters.post import open_post
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.tensors.dtypes import torch_name

FAMILY = ROOT / "examples" / "family"
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}


def small_gpt2(folder: Path) -> str:
    """GPT-2's architecture: weights the other way round, biases, a tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def small_llama(folder: Path) -> str:
    """A Llama of two layers in bfloat16, its head tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def small_mixtral(folder: Path, seed: int = 3) -> str:
    """A mixture of experts, whose files have a matrix for each expert."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    return str(folder)


def load(model: str, dtype: torch.dtype | str = "auto") -> Any:
    """The model, by transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype)


def make_adapter(
    base: str, folder: Path, *, cast: bool = True, **config: Any
) -> Mapping[str, torch.Tensor]:
    """Save a random adapter of `base` in `folder`; returns the state that PEFT merges it into.

    cast: whether PEFT keeps factors in float32, as it does unless told otherwise.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load(base), LoraConfig(**config), autocast_adapter_dtype=cast)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                size = 0.01 if "magnitude" in name else 0.05
                parameter.data += torch.randn_like(parameter) * size
        model.save_pretrained(folder)
        return dict(model.merge_and_unload().state_dict())


def read(model: Checkpoint, name: str) -> torch.Tensor:
    """A tensor of an opened checkpoint, in two reads."""
    source = model.tensors[name]
    entry = source.entry
    data = bytearray(entry.nbytes)
    half = entry.count // 2 * entry.dtype.itemsize
    for start, stop in ((0, half), (half, entry.nbytes)):
        part = memoryview(data)[start:stop]
        model.readers[source.file].read_into(entry.offset + start, part)
    kind = getattr(torch, str(torch_name(entry.dtype)))
    return torch.frombuffer(data, dtype=kind).reshape(entry.shape)


def merged_by_us(base: str, adapter: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of the view of `base` with the adapter merged into it."""
    with open_checkpoint(base) as below, open_post(str(adapter), below) as post:
        return {name: read(post, name) for name in post.tensors}


def ulps_apart(ours: torch.Tensor, theirs: torch.Tensor, *parts: torch.Tensor) -> float:
    """How far two sums lie apart, in units of the last place of the largest that took part.

    parts: what was summed; that of a difference is larger than what comes out.
    """
    assert ours.dtype == theirs.dtype
    left, right, *summed = (tensor.double() for tensor in (ours, theirs, *parts))
    largest = torch.stack([each.abs() for each in (left, right, *summed)]).amax(0)
    unit = torch.exp2(torch.floor(torch.log2(largest)) - MANTISSA[ours.dtype])
    apart = torch.where(left == right, 0.0, (left - right).abs() / unit)
    return float(apart.max())


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change keys of an adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def hand_made(
    folder: Path, base: str, targets: list[str], *, rank: int = 2, norms: bool = False
) -> Path:
    """An adapter of all matrices of those modules, written without PEFT; `norms` are held whole."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, tensor in read_model(Path(base)).items():
        module, _, _ = name.rpartition(".")
        key = f"base_model.model.{module}"
        if module.rpartition(".")[2] in targets:
            rows, columns = tensor.shape
            state[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
            state[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.01
        elif norms and module.endswith(".input_layernorm"):
            state[f"{key}.weight"] = tensor.float() + 0.01 * torch.randn(
                len(tensor), generator=generator
            )
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets}
    config |= {"base_model_name_or_path": base, "modules_to_save": ["input_layernorm"] * norms}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
