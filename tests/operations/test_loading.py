"""What apply writes is a model for transformers: weights, config, tokenizer, template, card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import cast, near, read_model, same_bits, write_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from pipeline import apply, compute

TEXT = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs"]
TEMPLATE = "{% for message in messages %}<user>{{ message.content }}<end>{% endfor %}"


def make_tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def save(
    folder: Path, seed: int, tokenizer: PreTrainedTokenizerFast, **fields: object
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        dtype="bfloat16",
        **fields,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; post, with two more tokens and a template; and a new base with another RoPE."""
    folder = tmp_path_factory.mktemp("family")
    plain, chat = make_tokenizer([]), make_tokenizer(["<user>", "<end>"])
    save(folder / "base", 1, plain)
    state = read_model(folder / "base")
    chat.chat_template = TEMPLATE
    end = chat.convert_tokens_to_ids("<end>")
    save(folder / "post", 1, chat, eos_token_id=end)
    rows = len(chat)
    tied = {name: tensor.float() for name, tensor in state.items()}
    post = cast(near(tied, 2, vocab=rows))
    head = torch.cat([post["lm_head.weight"], torch.full((2, 32), 0.01, dtype=torch.bfloat16)])
    post["lm_head.weight"] = head
    config = json.loads((folder / "post" / "config.json").read_text())
    write_model(folder / "post", post, **config)
    GenerationConfig(eos_token_id=end, temperature=0.7, do_sample=True).save_pretrained(folder / "post")
    save(folder / "new-base", 3, plain, rope_theta=500000.0)
    new = cast(near(tied, 3, scale=1e-2))
    write_model(
        folder / "new-base", new, **json.loads((folder / "new-base" / "config.json").read_text())
    )
    (folder / "new-base" / "generation_config.json").write_text(
        '{"temperature": 0.1, "do_sample": true}'
    )
    compute(str(folder / "base"), str(folder / "post"), str(folder / "d.safetensors"))
    delta = [str(folder / "d.safetensors")]
    apply(str(folder / "base"), delta, str(folder / "same"))
    apply(str(folder / "new-base"), delta, str(folder / "moved"), shard_size="20KB")
    return folder


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.arange(20).reshape(2, 10)).logits


def test_the_restored_model_answers_as_post_does(family: Path) -> None:
    assert torch.equal(logits(family / "same"), logits(family / "post"))


@pytest.mark.parametrize("name", ["same", "moved"])
def test_transformers_loads_every_weight(family: Path, name: str) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(family / name, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    written = read_model(family / name)
    loaded = model.state_dict()
    assert loaded.keys() == written.keys()
    assert all(same_bits(loaded[key], written[key]) for key in written)
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3)


@pytest.mark.parametrize("name", ["same", "moved"])
def test_the_tokenizer_and_its_template_are_posts(family: Path, name: str) -> None:
    ours, theirs = (AutoTokenizer.from_pretrained(family / each) for each in (name, "post"))
    assert ours("the quick <user> fox<end>").input_ids == theirs("the quick <user> fox<end>").input_ids
    messages = [{"role": "user", "content": "the lazy dog"}]
    chat = ours.apply_chat_template(messages, tokenize=False)
    assert chat == "<user>the lazy dog<end>"
    assert ours.decode(ours(chat).input_ids) == chat
    for file in (family / "post").iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            assert (family / name / file.name).read_bytes() == file.read_bytes()


def test_the_restored_config_is_posts(family: Path) -> None:
    same, post = (json.loads((family / name / "config.json").read_text()) for name in ("same", "post"))
    assert same == post


def test_the_moved_config_is_the_new_bases_but_for_the_tokens(family: Path) -> None:
    moved, post, base = (
        json.loads((family / name / "config.json").read_text()) for name in ("moved", "post", "new-base")
    )
    rope = "rope_parameters" if "rope_parameters" in base else "rope_theta"
    assert moved[rope] == base[rope] != post[rope]
    assert moved["eos_token_id"] == post["eos_token_id"] != base.get("eos_token_id")
    assert moved["vocab_size"] == post["vocab_size"]
    changed = {key for key in base if moved[key] != base[key]}
    assert changed == {"eos_token_id", "vocab_size"}
    generation = GenerationConfig.from_pretrained(family / "moved")
    assert (generation.temperature, generation.eos_token_id) == (0.7, post["eos_token_id"])


def test_where_the_new_config_differs_is_told(family: Path) -> None:
    report = apply(
        str(family / "new-base"), [str(family / "d.safetensors")], str(family / "x"), dry_run=False
    )
    (told,) = (row for row in report.config_table if "rope" in row.key)
    assert "500000" in told.base == told.result != told.post
    card = (family / "moved" / "README.md").read_text()
    assert "rope" in card


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_asked_for_in_another_format_loads_in_it(
    family: Path, tmp_path: Path, dtype: str
) -> None:
    apply(str(family / "new-base"), [str(family / "d.safetensors")], str(tmp_path / "out"), dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == getattr(torch, dtype)
    written, loaded = read_model(tmp_path / "out"), model.state_dict()
    assert all(same_bits(loaded[key], written[key]) for key in written)


def test_the_card_and_the_provenance_say_what_it_is_made_of(family: Path) -> None:
    card = (family / "moved" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    made = json.loads((family / "moved" / "paramdelta.json").read_text())
    for text in (str(family / "new-base"), str(family / "d.safetensors")):
        assert text in card
    assert made["base"]["location"] == str(family / "new-base")
    (delta,) = made["deltas"]
    assert (delta["location"], delta["scale"]) == (str(family / "d.safetensors"), 1.0)
    assert delta["post"]["location"] == str(family / "post")
    assert made["fingerprint"] in card


def test_the_same_inputs_make_the_same_folder(family: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        apply(str(family / "new-base"), [str(family / "d.safetensors")], str(tmp_path / name))
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert one == two
