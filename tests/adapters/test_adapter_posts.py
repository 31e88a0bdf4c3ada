"""A LoRA adapter as post: what PEFT's `merge_and_unload` gives, made on the way, range by range."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.making import (
    FAMILY,
    hand_made,
    load,
    make_adapter,
    merged_by_us,
    read,
    rewrite_config,
    small_gpt2,
    small_llama,
    ulps_apart,
)
from models import cast, formula, random_state, read_model, same_bits, write_model
from safetensors.torch import load_file, save_file

from pipeline import Difference, apply, compute, open_checkpoint, verify
from pipeline.checkpoints.adapters.post import open_post
from pipeline.errors import NotACheckpoint

BASE = str(FAMILY / "base-v1")
SOME = ["q_proj", "up_proj", "down_proj"]
PATTERNS = {"rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5}, "alpha_pattern": {"k_proj": 32}}

VARIATIONS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": SOME, "r": 4, "lora_alpha": 8},
    "patterns": {"target_modules": "all-linear", **PATTERNS},
    "rslora": {"target_modules": SOME, "use_rslora": True, **PATTERNS},
    "dora": {"target_modules": SOME, "use_dora": True},
    "by a pattern": {"target_modules": r".*layers\.1\.mlp\..*_proj"},
    "bfloat16 factors": {"target_modules": SOME, "cast": False},
    "tied embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "tied embedding, dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "norms whole": {"target_modules": SOME, "modules_to_save": ["input_layernorm"]},
    "embedding whole": {"target_modules": SOME, "modules_to_save": ["embed_tokens"]},
    "head whole": {"target_modules": SOME, "modules_to_save": ["lm_head"]},
}
GPT2_VARIATIONS: dict[str, dict[str, Any]] = {
    "conv1d": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "conv1d, dora": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True},
    "own biases": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "lora_only"},
    "all biases": {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"},
    "embedding": {"target_modules": ["wte"]},
}


def assert_merged(base: str, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal names but for a tied head's, and values within one unit of the last place."""
    before = read_model(Path(base))
    assert set(theirs) - set(ours) <= {"lm_head.weight"}
    for name, tensor in ours.items():
        below = before.get(
            name, next(t for n, t in before.items() if n.endswith(("tokens.weight", name)))
        )
        change = theirs[name].double() - below.double()
        assert ulps_apart(tensor, theirs[name], below, change) <= 1, name
    changed = [name for name in ours if name in before and not torch.equal(ours[name], before[name])]
    assert changed


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tied Llama."""
    return small_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GPT-2."""
    return small_gpt2(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.mark.parametrize("variation", VARIATIONS)
def test_merged_weights_are_peft_s_within_one_ulp(variation: str, small: str, tmp_path: Path) -> None:
    theirs = make_adapter(small, tmp_path, **VARIATIONS[variation])
    ours = merged_by_us(small, tmp_path)
    assert_merged(small, ours, dict(theirs))
    untied = not torch.equal(theirs["lm_head.weight"], theirs["model.embed_tokens.weight"])
    assert untied == ("lm_head.weight" in ours)


@pytest.mark.parametrize("variation", GPT2_VARIATIONS)
def test_layers_that_lie_the_other_way_round_are_peft_s_too(
    variation: str, gpt2: str, tmp_path: Path
) -> None:
    theirs = make_adapter(gpt2, tmp_path / "adapter", **GPT2_VARIATIONS[variation])
    assert_merged(gpt2, merged_by_us(gpt2, tmp_path / "adapter"), dict(theirs))


def test_a_float32_base_is_merged_exactly_and_peft_s_is_as_near_as_its_float32_products(
    tmp_path: Path,
) -> None:
    load(BASE, torch.float32).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    theirs = make_adapter(base, tmp_path / "adapter", target_modules=SOME, lora_alpha=16)
    ours, before = merged_by_us(base, tmp_path / "adapter"), read_model(tmp_path / "base")
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name in (name.removesuffix(".lora_A.weight") for name in state if "lora_A" in name):
        a, b = (state[f"{name}.lora_{part}.weight"].double() for part in "AB")
        weight = name.removeprefix("base_model.model.") + ".weight"
        exact, terms = before[weight].double() + 2 * (b @ a), 2 * (b.abs() @ a.abs())
        found, other = ours[weight], theirs[weight]
        assert torch.equal(found, exact.float())
        roundings = len(a) + 2  # PEFT's: of each product's sum, of the scaling, of the last sum
        assert torch.all((found - other).abs() <= roundings * 2**-24 * (before[weight].abs() + terms))
        few = (found.view(torch.int32) - other.view(torch.int32)).abs() > 1
        assert few.float().mean() < 0.1


def test_a_base_without_its_model_s_prefix_is_known_again(tmp_path: Path) -> None:
    base = small_gpt2(tmp_path / "base")
    theirs = make_adapter(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    state = read_model(tmp_path / "base")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    write_model(tmp_path / "bare", bare, model_type="gpt2")
    ours = merged_by_us(str(tmp_path / "bare"), tmp_path / "adapter")
    name = "h.0.attn.c_attn.weight"
    assert ulps_apart(ours[name], theirs[f"transformer.{name}"], bare[name]) <= 1
    assert not torch.equal(ours[name], bare[name])


def by_hand(folder: Path, base: torch.Tensor, **config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """An adapter of one matrix `w.weight`, without PEFT; returns its factors."""
    generator = torch.Generator().manual_seed(5)
    a = torch.randn(3, base.shape[1], generator=generator)
    b = torch.randn(base.shape[0], 3, generator=generator) * 0.01
    folder.mkdir()
    names = [f"base_model.model.w.lora_{part}.weight" for part in "AB"]
    save_file(dict(zip(names, (a, b), strict=True)), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    rewrite_config(folder, peft_type="LORA", r=3, lora_alpha=6, target_modules=["w"], **config)
    return a, b


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_sum_is_exact_and_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.randn(400, 700, generator=torch.Generator().manual_seed(4)).to(dtype)
    base = str(write_model(tmp_path / "base", {"w.weight": weight}))
    a, b = by_hand(tmp_path / "adapter", weight)
    exact = weight.double() + 2.0 * (b.double() @ a.double())
    found = merged_by_us(base, tmp_path / "adapter")["w.weight"]
    error = (found.double() - exact).abs()
    nearest = torch.minimum((exact.to(dtype).double() - exact).abs(), error)
    assert torch.all(error <= nearest * (1 + 1e-9) + 1e-300)


def test_any_range_gives_the_same_bits(tmp_path: Path) -> None:
    weight = torch.randn(500, 600)
    base = str(write_model(tmp_path / "base", {"w.weight": weight}))
    by_hand(tmp_path / "adapter", weight)
    with open_checkpoint(base) as below, open_post(str(tmp_path / "adapter"), below) as post:
        whole = read(post, "w.weight").reshape(-1)
        source = post.tensors["w.weight"]
        for start, stop in ((0, 1), (599, 601), (123_457, 131_073), (299_999, 300_000)):
            part = bytearray(4 * (stop - start))
            post.readers[source.file].read_into(source.entry.offset + 4 * start, memoryview(part))
            assert same_bits(torch.frombuffer(part, dtype=torch.float32), whole[start:stop])


def test_memory_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    weight = torch.randn(1 << 22).reshape(8192, 512)
    base = str(write_model(tmp_path / "base", {"w.weight": weight}))
    by_hand(tmp_path / "adapter", weight)
    with open_checkpoint(base) as below, open_post(str(tmp_path / "adapter"), below) as post:
        source = post.tensors["w.weight"]
        buffer = memoryview(bytearray(1 << 16))
        tracemalloc.start()
        for offset in range(0, source.entry.nbytes, 1 << 21):
            post.readers[source.file].read_into(source.entry.offset + offset, buffer)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < source.entry.nbytes / 3


def test_what_the_adapter_leaves_alone_is_read_where_the_base_has_it(tmp_path: Path) -> None:
    make_adapter(BASE, tmp_path, target_modules=["q_proj"])
    with open_checkpoint(BASE) as base, open_post(str(tmp_path), base) as post:
        name = "model.norm.weight"
        ours, theirs = post.tensors[name], base.tensors[name]
        assert post.readers[ours.file] is base.readers[theirs.file]
        assert ours.entry.offset == theirs.entry.offset
        assert post.config == base.config
        assert set(post.companions) == set(base.companions)


def test_it_is_another_model_on_another_base_or_with_another_scaling(tmp_path: Path) -> None:
    folder = hand_made(tmp_path / "adapter", BASE, ["q_proj"])

    def identity(base: str) -> str:
        with open_checkpoint(base) as below, open_post(str(folder), below) as post:
            return str(post.identity)

    found = {identity(BASE), identity(str(FAMILY / "base-v2"))}
    rewrite_config(folder, lora_alpha=9)
    assert len(found | {identity(BASE)}) == 3


def test_files_beside_the_adapter_take_the_place_of_the_base_s(tmp_path: Path) -> None:
    make_adapter(BASE, tmp_path, target_modules=["q_proj"])
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with open_checkpoint(BASE) as base, open_post(str(tmp_path), base) as post:
        found = post.read_companions()
    assert found["chat_template.jinja"] == b"{{ messages }}"
    assert found["tokenizer_config.json"] == b"{}"
    assert found["tokenizer.json"] == (FAMILY / "base-v1" / "tokenizer.json").read_bytes()


def test_a_pickle_is_read_as_safetensors_are(small: str, tmp_path: Path) -> None:
    make_adapter(small, tmp_path, target_modules=["q_proj"], use_dora=True)
    before = merged_by_us(small, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter_model.bin")
    after = merged_by_us(small, tmp_path)
    assert all(same_bits(before[name], after[name]) for name in before)


def test_compute_apply_and_verify_take_an_adapter_as_post(tmp_path: Path) -> None:
    hand_made(tmp_path / "adapter", BASE, ["q_proj"])
    adapter, delta = str(tmp_path / "adapter"), str(tmp_path / "d.safetensors")
    merged = merged_by_us(BASE, adapter)
    report = compute(BASE, adapter, delta)
    assert report.post == adapter
    assert not report.notes
    apply(BASE, [delta], str(tmp_path / "restored"))
    restored = read_model(tmp_path / "restored")
    assert all(same_bits(restored[name], merged[name]) for name in merged)
    assert verify(delta, base=BASE, post=adapter).restores_post
    with pytest.raises(NotACheckpoint, match="with its base"):
        verify(delta, post=adapter)


def test_an_adapter_moves_to_another_base_without_a_delta_between(tmp_path: Path) -> None:
    hand_made(tmp_path / "adapter", BASE, ["q_proj"])
    new = str(FAMILY / "base-v2")
    apply(new, [Difference(BASE, str(tmp_path / "adapter"))], str(tmp_path / "out"))
    found, merged = read_model(tmp_path / "out"), merged_by_us(BASE, tmp_path / "adapter")
    old, below = read_model(Path(BASE)), read_model(Path(new))
    assert all(
        same_bits(found[name], formula(below[name], (1.0, merged[name], old[name]))) for name in old
    )


def test_a_base_that_the_adapter_does_not_name_is_reported(tmp_path: Path) -> None:
    make_adapter(BASE, tmp_path / "adapter", target_modules=["q_proj"])
    rewrite_config(tmp_path / "adapter", base_model_name_or_path="org/other", revision="abc")
    report = compute(BASE, str(tmp_path / "adapter"), str(tmp_path / "d.safetensors"), dry_run=True)
    assert len(report.notes) == 1
    assert "org/other@abc" in report.notes[0]


def test_a_vocabulary_that_grew_with_the_adapter_grows_the_config(tmp_path: Path) -> None:
    state = cast(random_state(1))
    base = str(write_model(tmp_path / "base", state, tie_word_embeddings=True))
    make_adapter_by_hand = {
        "base_model.model.model.embed_tokens.weight": torch.zeros(53, 16, dtype=torch.bfloat16)
    }
    (tmp_path / "adapter").mkdir()
    save_file(make_adapter_by_hand, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    rewrite_config(tmp_path / "adapter", peft_type="LORA", r=1, lora_alpha=1)
    with open_checkpoint(base) as below, open_post(str(tmp_path / "adapter"), below) as post:
        assert post.vocab_size == 53
        assert post.tensors["model.embed_tokens.weight"].entry.shape == (53, 16)
