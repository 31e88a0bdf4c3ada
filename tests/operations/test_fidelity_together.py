"""Cases that people meet at once: each is right alone elsewhere, and must be right with the others.

A vocabulary in another order with each way to put deltas together, with adapters, ties, another base
and a process that is killed; a multimodal post; quantised models with all of that.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.making import load, make_adapter
from clouds import Cloud
from effort import times
from forks import Forks
from fusion_formulas import trimmed
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from models import State, cast, formula, near, random_state, read_model, same_bits, write_model
from safetensors.torch import load_file, save_file
from tokenizers_for_tests import put, words

from pipeline import apply, combine, compute, extract_adapter, verify
from pipeline.errors import Mismatch, OtherCheckpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PADDED, NEW_PADDED = 40, 44
WORDS = ["<unk>", *(f"w{number}" for number in range(29))]
OTHERS = [*WORDS[:10], *reversed(WORDS[10:])]  # the new base's: the same tokens under other ids
ADDED = {"<tool>": 30, "<done>": 31}
OWN = "<own>"  # the new base's own, at 30
POSTS = ("post", "other")


class Family:
    """A padded base, two posts with tokens of their own, a padded new base in another order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: dict[str, State] = {}
        base = random_state(1, vocab=PADDED)
        base[HEAD] = base[EMBEDDING] * 0.5
        self._add("base", base, words(WORDS))
        for number, name in enumerate(POSTS):
            state = near(base, 5 + number)
            state |= {each: state[each][:32] + 0.1 * number for each in (EMBEDDING, HEAD)}
            self._add(name, state, words(WORDS, ADDED))
        new = near(base, 3, scale=1e-2)
        for name in (EMBEDDING, HEAD):
            rows = torch.randn(NEW_PADDED, 16, generator=torch.Generator().manual_seed(9)) * 0.02
            rows[:30] = torch.stack([new[name][WORDS.index(token)] for token in OTHERS])
            new[name] = rows
        self._add("new", new, words(OTHERS, {OWN: 30}))
        for name in POSTS:
            compute(self.path("base"), self.path(name), self.delta(name))

    def _add(self, name: str, state: State, tokenizer: dict[str, Any]) -> None:
        self.states[name] = cast(state)
        put(write_model(self.folder / name, self.states[name], tie_word_embeddings=False), tokenizer)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def delta(self, name: str) -> str:
        return str(self.folder / f"{name}.safetensors")

    def rows(self, name: str, tensor: str, tokens: list[str]) -> torch.Tensor:
        """The rows of these tokens in the base, a post or the new base."""
        ids = {token: number for number, token in enumerate(OTHERS if name == "new" else WORDS)}
        ids |= {OWN: 30} if name == "new" else ADDED
        return self.states[name][tensor][[ids[token] for token in tokens]]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("family"))


def result_rows(folder: Path, tensor: str, tokens: list[str]) -> torch.Tensor:
    """The rows of these tokens in a result, found by the tokenizer that lies beside it."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return read_model(folder)[tensor][[ids[token] for token in tokens]]


# -- a vocabulary in another order, and ways to put deltas together ----------


@pytest.mark.parametrize(
    "options",
    [
        {"skip": "embed_tokens|lm_head"},
        {"only": "mlp"},
        {"lambda_": 0.5},
        {"scale_for": ["embed_tokens|lm_head=0.5"]},
        {"method": "ties", "density": 0.3},
        {"method": "breadcrumbs", "density": 0.3},
        {"method": "dare_linear", "density": 0.3},
        {"method": "della", "density": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("onto", ["base", "new"])
def test_new_tokens_of_a_padded_base_have_posts_rows_whatever_is_done_to_the_others(
    options: dict[str, Any], onto: str, family: Family, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    apply(family.path(onto), [family.delta("post")], str(out), **options)
    for name in (EMBEDDING, HEAD):
        added = list(ADDED)
        assert same_bits(result_rows(out, name, added), family.rows("post", name, added))
        kept = same_bits(result_rows(out, name, WORDS), family.rows(onto, name, WORDS))
        assert kept == ("skip" in options or "only" in options)
        if onto == "new":
            assert same_bits(result_rows(out, name, [OWN]), family.rows("new", name, [OWN]))


def test_ties_finds_its_thresholds_among_rows_that_a_base_has(family: Family, tmp_path: Path) -> None:
    out = tmp_path / "out"
    deltas = [family.delta(name) for name in POSTS]
    options: dict[str, Any] = {"method": "ties", "density": 0.3, "workers": 3, "memory": "128MiB"}
    apply(family.path("new"), deltas, str(out), **options)
    for name in (EMBEDDING, HEAD):
        old, new = (family.rows(each, name, WORDS).float() for each in ("base", "new"))
        kept = torch.stack(
            [trimmed(family.rows(post, name, WORDS).float() - old, 0.3) for post in POSTS]
        )
        sign = torch.where(kept.sum(0) >= 0, 1.0, -1.0)
        agreed = kept.sign() == sign
        wanted = new + (kept * agreed).sum(0) / agreed.sum(0).clamp(min=1)
        assert same_bits(result_rows(out, name, WORDS), wanted.to(torch.bfloat16))
        whole = torch.stack([family.rows(post, name, [*ADDED]).float() for post in POSTS]).mean(0)
        assert same_bits(result_rows(out, name, [*ADDED]), whole.to(torch.bfloat16))


@pytest.mark.parametrize("method", ["slerp", "model_stock"])
def test_methods_of_angles_refuse_new_tokens_of_a_padded_base(
    method: str, family: Family, tmp_path: Path
) -> None:
    with pytest.raises(Mismatch, match="rows that are not in all models") as error:
        deltas = [(family.delta(name), 0.5) for name in POSTS]
        apply(family.path("base"), deltas, str(tmp_path / "out"), method=method)
    assert "--skip" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_sum_of_re_ordered_deltas_is_that_of_their_combination(family: Family, tmp_path: Path) -> None:
    deltas = [(family.delta(name), 0.5) for name in POSTS]
    combine(deltas, str(tmp_path / "c.safetensors"))
    apply(family.path("new"), deltas, str(tmp_path / "one"), shard_size=2000)
    apply(family.path("new"), [str(tmp_path / "c.safetensors")], str(tmp_path / "two"))
    one, two = read_model(tmp_path / "one"), read_model(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(same_bits(one[name], two[name]) for name in one)


def test_killed_while_it_writes_to_azure_it_is_taken_up_with_the_same_bits(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    deltas = [family.delta(name) for name in POSTS]
    call = ("apply", family.path("new"), deltas)
    options: dict[str, Any] = {"method": "dare_ties", "density": 0.5, "shard_size": 3000}
    warm_up = ["compute", "--base", family.path("base"), "--post", family.path("base")]
    apply(*call[1:], str(tmp_path / "right"), **options)  # type: ignore[arg-type]
    right = read_model(tmp_path / "right")
    with Forks(tmp_path, [[*warm_up, "--output", str(tmp_path / "warm")]]) as forks:
        for commit in range(1, 1 + times(2, 6)):
            out = f"out{commit}"
            dead = forks.call(*call, f"{cloud.location}/{out}", commit=commit, **options)
            assert dead.code == -9
            assert f"{out}/config.json" not in cloud.names()
            done = forks.call(*call, f"{cloud.location}/{out}", **options)
            assert done.code == 0, done.errors
            found = read_model(cloud.download(out, tmp_path / out))
            assert found.keys() == right.keys()
            assert all(same_bits(found[name], right[name]) for name in right)


# -- adapters ----------


def test_an_adapter_of_a_re_ordered_delta_holds_its_rows_and_is_a_post_again(
    family: Family, tmp_path: Path
) -> None:
    adapter, again = str(tmp_path / "adapter"), str(tmp_path / "again.safetensors")
    base = family.path("base")
    report = extract_adapter(family.delta("post"), adapter, rank=16, base=base)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert {"model.embed_tokens", "lm_head"} <= set(config["modules_to_save"])
    assert len(set(config["modules_to_save"])) == len(config["modules_to_save"])
    assert not any("lm_head" in module for module in config["target_modules"])
    assert "resize_token_embeddings(32)" in report.notes[0]
    compute(base, adapter, again)
    assert verify(again, base=base, post=adapter).restores_post
    for delta, out in ((again, "one"), (family.delta("post"), "two")):
        apply(family.path("new"), [delta], str(tmp_path / out))
    one, two = read_model(tmp_path / "one"), read_model(tmp_path / "two")
    assert all(same_bits(one[name], two[name]) for name in (EMBEDDING, HEAD))
    assert all(torch.allclose(one[name], two[name], atol=1e-2) for name in one)


def test_the_base_of_an_adapter_is_checked_before_anything_is_written(
    family: Family, tmp_path: Path
) -> None:
    with pytest.raises(OtherCheckpoint, match="is not the base of"):
        extract_adapter(
            family.delta("post"), str(tmp_path / "x"), rank=2, base=family.path("new"), dry_run=True
        )


def small_llama(folder: Path, **config: Any) -> str:
    """A model that PEFT adapts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes, **heads, **config)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("rows", [32, 45], ids=["padding cut off", "grown"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_adapter_with_resized_embeddings_is_what_peft_merges(
    rows: int, tied: bool, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    base = small_llama(tmp_path / "base", tie_word_embeddings=tied)
    put(base, words(WORDS))
    model = load(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    saved = ["embed_tokens", "lm_head"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it saves whole, and of ties
        adapted = get_peft_model(
            model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved)
        )
        for parameter in adapted.parameters():
            parameter.data += torch.randn_like(parameter) * 0.05 * parameter.requires_grad
        adapted.save_pretrained(tmp_path / "adapter")
        wanted = dict(adapted.merge_and_unload().state_dict())
    put(tmp_path / "adapter", words(WORDS, ADDED))
    held = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert any("original_module" in name for name in held)  # what PEFT 0.21 writes after a resize
    delta = str(tmp_path / "d.safetensors")
    compute(base, str(tmp_path / "adapter"), delta)
    apply(base, [delta], str(tmp_path / "out"))
    merged = load(str(tmp_path / "out")).state_dict()
    assert merged.keys() == wanted.keys()
    assert all(torch.allclose(merged[name], wanted[name], atol=1e-7) for name in wanted)
    assert same_bits(merged[EMBEDDING], wanted[EMBEDDING])


# -- a multimodal post of a text base ----------


def test_a_text_base_becomes_the_multimodal_model_that_its_predecessor_became(tmp_path: Path) -> None:
    from transformers import (
        AutoModelForImageTextToText,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    base = small_llama(tmp_path / "base")
    text = load_file(Path(base) / "model.safetensors")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 8}
    config = LlavaConfig(
        text_config=LlamaConfig.from_pretrained(base),
        vision_config=CLIPVisionConfig(**vision, num_attention_heads=1, patch_size=4),
        image_token_index=39,
    )
    post = LlavaForConditionalGeneration(config)
    tuned = near(text, 4)
    for name, values in post.state_dict().items():
        if (plain := name.replace("model.language_model.", "model.")) in tuned:
            values.copy_(tuned[plain])
    post.save_pretrained(tmp_path / "post")
    new = near(text, 5, scale=1e-2)
    write_model(tmp_path / "new", new)
    said = json.loads((Path(base) / "config.json").read_text())
    rope = {"rope_theta": 5e5, "rope_type": "default"}
    (tmp_path / "new/config.json").write_text(json.dumps({**said, "rope_parameters": rope}))
    delta = str(tmp_path / "d.safetensors")
    compute(base, str(tmp_path / "post"), delta)
    report = apply(str(tmp_path / "new"), [delta], str(tmp_path / "out"), old_base=base)
    model, loading = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert model.config.text_config.rope_parameters["rope_theta"] == 5e5
    assert len(report.renamed) == len(text)
    adapter = extract_adapter(delta, str(tmp_path / "adapter"), rank=2, base=base)
    assert not any("vision" in name or "projector" in name for name in adapter.whole)
    assert any("vision_tower" in line and "no such module" in line for line in adapter.left_out)
    for name, values in post.state_dict().items():
        plain = name.replace("model.language_model.", "model.")
        wanted = formula(new[plain], (1.0, values, text[plain])) if plain in text else values
        assert same_bits(model.state_dict()[name], wanted), name


# -- quantised models ----------


def test_an_adapter_of_a_gguf_base_is_merged_into_another_base(tmp_path: Path) -> None:
    quantised = write_gguf(tmp_path / "gguf/b.gguf", Kind.Q8_0)
    location = str(quantised.parent)
    values = load_gguf(quantised)
    base = tmp_path / "values"
    write_model(base, values)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(quantised.parent, gguf_file=quantised.name)
    (base / "config.json").write_text(config.to_json_string(use_diff=False))
    merged = make_adapter(str(base), tmp_path / "adapter", r=2, target_modules=["q_proj", "v_proj"])
    delta = str(tmp_path / "d.safetensors")
    report = compute(location, str(tmp_path / "adapter"), delta, memory="96MiB", workers=3)
    assert report.derived
    new = near(values, 7)
    write_model(tmp_path / "new", new)
    (tmp_path / "new/config.json").write_text((base / "config.json").read_text())
    out = tmp_path / "out"
    apply(str(tmp_path / "new"), [delta], str(out), old_base=location)
    for name, tensor in read_model(out).items():
        wanted = formula(new[name], (1.0, merged[name], values[name]))
        assert torch.allclose(tensor, wanted, atol=1e-7), name


def load_gguf(path: Path) -> State:
    """What transformers reads of it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_fp8_bases_take_ties_of_two_and_keep_what_is_skipped(tmp_path: Path) -> None:
    state = cast(random_state(1, vocab=32))
    meant = {name: write_fp8(tmp_path / name, near(state, seed)) for seed, name in ((1, "b"), (2, "n"))}
    posts = [cast(near(meant["b"], seed)) for seed in (3, 4)]
    deltas = []
    for number, post in enumerate(posts):
        write_model(tmp_path / f"p{number}", post)
        deltas.append(str(tmp_path / f"d{number}.safetensors"))
        compute(str(tmp_path / "b"), str(tmp_path / f"p{number}"), deltas[-1], dequantize=True)
    apply(
        str(tmp_path / "n"), deltas, str(tmp_path / "out"), dequantize=True, dtype="bfloat16",
        method="ties", density=0.4, skip=["embed", "norm"],
    )  # fmt: skip
    for name, found in read_model(tmp_path / "out").items():
        old, new = (meant[each][name].float() for each in "bn")
        wanted = new
        if "norm" not in name and "embed" not in name:
            kept = torch.stack([trimmed(post[name].float() - old, 0.4) for post in posts])
            agreed = kept.sign() == torch.where(kept.sum(0) >= 0, 1.0, -1.0)
            wanted = new + (kept * agreed).sum(0) / agreed.sum(0).clamp(min=1)
        assert same_bits(found, wanted.to(torch.bfloat16)), name
    adapter = extract_adapter(
        deltas[0], str(tmp_path / "a"), rank=2, base=str(tmp_path / "b"), dequantize=True
    )
    assert EMBEDDING in adapter.whole


def write_fp8(folder: Path, state: State) -> State:
    """Write matrices, but for the embedding, as e4m3 with one scale each; returns what they mean."""
    stored, meant = {}, {}
    for name, tensor in state.items():
        stored[name] = meant[name] = tensor.to(torch.bfloat16)
        if tensor.dim() == 2 and "embed" not in name:
            scale = tensor.float().abs().max() / 448
            codes = (tensor.float() / scale).to(torch.float8_e4m3fn)
            stored[name], meant[name] = codes, codes.float() * scale
            stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
    write_model(folder, {}, vocab_size=len(state[EMBEDDING]), quantization_config={
        "quant_method": "fp8", "weight_block_size": [128, 128],
    })  # fmt: skip
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return meant
