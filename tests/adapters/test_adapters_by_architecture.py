"""Adapters of models whose files have other names than the loaded model, or whose head is elsewhere."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.making import make_adapter, merged_by_us, small_llama, ulps_apart
from models import read_model
from safetensors.torch import save_file

from pipeline import compute, extract_adapter, open_checkpoint
from pipeline.checkpoints.adapters.post import open_post

SMALL = {"hidden_size": 16, "vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": 40}


def make(name: str, folder: Path, **config: Any) -> Path:
    """Save a random model of a class of transformers in bfloat16."""
    import transformers

    torch.manual_seed(3)
    kind = getattr(transformers, name)
    kind(kind.config_class(**config)).to(torch.bfloat16).save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Change the tensors of a model's file."""
    save_file(change(read_model(folder)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def bare(folder: Path) -> Path:
    """A GPT-2 whose file has the names of its body, as the Hub's own has."""
    make("GPT2LMHeadModel", folder, **GPT2)
    return rewrite(folder, lambda state: {n.removeprefix("transformer."): t for n, t in state.items()})


def llava(folder: Path) -> Path:
    """A multimodal model, whose file has the names of older versions."""
    from transformers import CLIPVisionConfig, LlamaConfig

    eye = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8,
        patch_size=4,
    )  # fmt: skip
    text = LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=2)
    name = "LlavaForConditionalGeneration"
    return make(name, folder, text_config=text, vision_config=eye, image_token_index=39)


MODELS: dict[str, Callable[[Path], Path]] = {
    "gpt-neox": lambda folder: make("GPTNeoXForCausalLM", folder, **SMALL, intermediate_size=24),
    "bloom": lambda folder: make("BloomForCausalLM", folder, **SMALL),
    "mamba": lambda folder: make("MambaForCausalLM", folder, **SMALL, state_size=4),
    "gpt2": bare,
    "gpt2, classifying": lambda f: make("GPT2ForSequenceClassification", f, **GPT2, num_labels=3),
    "llava": llava,
}
EMBEDDINGS = {"bloom": "word_embeddings", "mamba": "embeddings", "gpt2": "wte"}


def load(folder: Path) -> Any:
    """The model in float32, by transformers."""
    import transformers

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_extracted_gives_post_back_in_peft(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base, post = (MODELS[kind](tmp_path / name) for name in ("base", "post"))
    generator = torch.Generator().manual_seed(5)
    rewrite(
        post,
        lambda state: {
            name: (t + torch.randn(t.shape, generator=generator) * 0.05).to(t.dtype)
            for name, t in state.items()
        },
    )
    compute(str(base), str(post), str(tmp_path / "d.safetensors"))
    out = str(tmp_path / "adapter")
    left = extract_adapter(str(tmp_path / "d.safetensors"), out, rank=48, base=str(base)).left_out
    model, wanted = load(base), load(post).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys")
        merged = PeftModel.from_pretrained(model, out).merge_and_unload().state_dict()
    apart = [n for n, t in wanted.items() if not torch.allclose(merged[n], t, atol=1e-5)]
    assert [name.rpartition(".")[2] for name in apart] == [
        line.partition(":")[0].rpartition(".")[2] for line in left
    ]
    ours = merged_by_us(str(base), out)
    for name, tensor in read_model(post).items():
        if not any(name in line for line in left):
            assert torch.allclose(ours[name].float(), tensor.float(), rtol=2**-7, atol=1e-5), name


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_a_tied_embedding_that_is_held_whole_leaves_the_head_alone(kind: str, tmp_path: Path) -> None:
    base = MODELS[kind](tmp_path / "base")
    whole = [EMBEDDINGS[kind]]
    theirs = make_adapter(
        str(base),
        tmp_path / "a",
        target_modules=".*(in_proj|query_key_value|c_attn)",
        modules_to_save=whole,
    )
    with open_checkpoint(str(base)) as below, open_post(str(tmp_path / "a"), below) as post:
        assert post.config is not None
        assert post.config["tie_word_embeddings"] is False
    ours = merged_by_us(str(base), tmp_path / "a")
    (embedding,) = (tensor for name, tensor in ours.items() if name.endswith(f"{whole[0]}.weight"))
    assert torch.equal(ours["lm_head.weight"], theirs["lm_head.weight"])
    assert not torch.equal(ours["lm_head.weight"], embedding)


def test_a_head_that_lies_there_once_more_follows_its_adapted_embedding(tmp_path: Path) -> None:
    base, embedding, head = small_llama(tmp_path / "base"), "model.embed_tokens.weight", "lm_head.weight"
    rewrite(tmp_path / "base", lambda state: {**state, head: state[embedding].clone()})
    theirs = make_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    ours, before = merged_by_us(base, tmp_path / "adapter"), read_model(tmp_path / "base")
    assert head not in ours
    assert ulps_apart(ours[embedding], theirs[head], before[embedding]) <= 1


def test_a_module_is_found_by_the_name_that_it_has_once_loaded(tmp_path: Path) -> None:
    base = MODELS["gpt-neox"](tmp_path / "base")
    theirs = make_adapter(str(base), tmp_path / "adapter", target_modules=["lm_head"])
    ours, before = merged_by_us(str(base), tmp_path / "adapter"), read_model(base)
    head = "embed_out.weight"
    assert ulps_apart(ours[head], theirs["lm_head.weight"], before[head]) <= 1
    assert not torch.equal(ours[head], before[head])


BERT = {**SMALL, "num_hidden_layers": 1, "intermediate_size": 24, "max_position_embeddings": 16}
TIED: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "T5": (
        lambda folder: make(
            "T5ForConditionalGeneration", folder, vocab_size=40, d_model=16, d_kv=8, d_ff=24,
            num_layers=1, num_heads=2,
        ),
        {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"},
    ),
    "BERT": (lambda folder: make("BertForMaskedLM", folder, **BERT), {"cls.predictions.decoder"}),
    "classifier": (lambda folder: make("BertForSequenceClassification", folder, **BERT), set()),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIED)
def test_all_that_a_model_ties_to_an_embedding_is_held_beside_it(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    build, modules = TIED[kind]
    base, post = (build(tmp_path / name) for name in ("base", "post"))
    rewrite(post, lambda state: {name: (t.float() + 0.25).to(t.dtype) for name, t in state.items()})
    delta, out = str(tmp_path / "d.safetensors"), str(tmp_path / "adapter")
    compute(str(base), str(post), delta)
    report = extract_adapter(delta, out, rank=2, base=str(base))
    saved = set(
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["modules_to_save"]
    )
    assert modules <= saved
    assert ("lm_head" in saved) == ("lm_head" in modules)
    wanted = load(post).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(load(base), out).merge_and_unload().state_dict()
    apart = [n for n, tensor in wanted.items() if not torch.allclose(merged[n], tensor, atol=0.01)]
    assert apart == [line.partition(":")[0] for line in report.left_out]
    if kind == "classifier":
        assert merged_by_us(str(base), out).keys() == read_model(base).keys()
