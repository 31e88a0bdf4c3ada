"""Models that call the same tensors by other names meet, as transformers itself maps their names.

Real models of transformers, tiny and random, saved under the names of its own versions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import State, cast, formula, near, read_model, same_bits, write_model

from pipeline import Difference, apply, compute, verify
from pipeline.errors import Mismatch, OtherCheckpoint

TEXT = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 50, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-6, "attention_bias": False,
    "mlp_bias": False, "tie_word_embeddings": False,
}  # fmt: skip
VISION = {
    "model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "image_size": 8, "patch_size": 4, "projection_dim": 8,
}  # fmt: skip
LLAVA = {
    "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": TEXT,
    "vision_config": VISION, "image_token_index": 49, "tie_word_embeddings": False,
}  # fmt: skip


def text_state(seed: int) -> State:
    """A Llama of one layer, under the names of LlamaForCausalLM."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (50, 16), "model.norm.weight": (16,), "lm_head.weight": (50, 16),
        "model.layers.0.self_attn.q_proj.weight": (16, 16),
        "model.layers.0.mlp.up_proj.weight": (24, 16), "model.layers.0.input_layernorm.weight": (16,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}


def renamed(state: State, *changes: tuple[str, str]) -> State:
    """`state` with the first prefix that fits replaced in each name."""
    made = {}
    for name, values in state.items():
        fits = [(old, new) for old, new in changes if name.startswith(old)]
        made[fits[0][1] + name.removeprefix(fits[0][0]) if fits else name] = values
    return made


# As llava-hf/llava-1.5-7b-hf lies on the Hub, and as transformers 5 names its modules.
OLD_LLAVA = (("model.", "language_model.model."), ("lm_head.", "language_model.lm_head."))
NEW_LLAVA = (("model.", "model.language_model."),)
BODY = (("model.", ""),)  # as LlamaModel names its own


def vision_state(prefix: str) -> State:
    """Two tensors that only a LLaVA has."""
    return cast({
        f"{prefix}multi_modal_projector.linear_1.weight": torch.ones(16, 8),
        f"{prefix}vision_tower.vision_model.embeddings.class_embedding": torch.ones(8),
    })  # fmt: skip


def save(folder: Path, state: State, config: dict) -> str:
    write_model(folder, state)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def text(tmp_path: Path) -> tuple[State, State, State]:
    """Base, post and new base, under the names of LlamaForCausalLM."""
    base = text_state(1)
    return cast(base), cast(near(base, 2)), cast(near(base, 3, scale=1e-2))


@pytest.mark.parametrize(
    ("changes", "prefix"), [(OLD_LLAVA, ""), (NEW_LLAVA, "model.")], ids=["old names", "new names"]
)
def test_the_text_part_of_a_multimodal_post_meets_a_text_base(tmp_path, text, changes, prefix):
    base, post, new = text
    extra = vision_state(prefix)
    paths = (
        save(tmp_path / "base", base, TEXT),
        save(tmp_path / "post", renamed(post, *changes) | extra, LLAVA),
    )
    delta = str(tmp_path / "d.safetensors")
    made = compute(*paths, delta)
    assert set(made.only_post) == set(extra)
    assert len(made.renamed) == len([name for name in renamed(base, *changes) if name not in base])
    assert verify(delta, base=paths[0], post=paths[1]).restores_post

    new_base = save(tmp_path / "new", renamed(new, *NEW_LLAVA), LLAVA)
    report = apply(new_base, [delta], str(tmp_path / "out"))
    out = read_model(tmp_path / "out")
    own = renamed(new, *NEW_LLAVA)
    assert set(out) == {*own, *extra}
    assert all(same_bits(out[name], values) for name, values in extra.items())
    for name, values in renamed({n: n for n in base}, *NEW_LLAVA).items():
        assert same_bits(out[name], formula(new[values], (1.0, post[values], base[values])))
    assert (report.renamed == ()) is (changes is NEW_LLAVA)

    again = apply(paths[0], [delta], str(tmp_path / "again"))
    assert again.case.startswith("same base")
    restored, whole = read_model(tmp_path / "again"), renamed(post, *changes) | extra
    assert restored.keys() == whole.keys()
    assert all(same_bits(restored[name], values) for name, values in whole.items())


def test_a_post_saved_without_its_prefix_meets_its_base_and_the_result_has_the_new_bases_names(
    tmp_path, text
):
    base, post, new = ({n: t for n, t in s.items() if n != "lm_head.weight"} for s in text)
    body = {**TEXT, "architectures": ["LlamaModel"]}
    paths = save(tmp_path / "base", base, TEXT), save(tmp_path / "post", renamed(post, *BODY), body)
    new_base = save(tmp_path / "new", new, TEXT)
    delta = str(tmp_path / "d.safetensors")
    compute(*paths, delta)
    choice = {"architectures": "base"}
    for number, what in enumerate((delta, Difference(*paths))):
        report = apply(
            new_base, [what], str(tmp_path / f"out{number}"), old_base=paths[0], take_config=choice
        )
        assert len(report.renamed) == len(new)
        assert any(line.startswith("model.norm.weight is norm.weight in ") for line in report.renamed)
        assert report.base_distance > 0
        out = read_model(tmp_path / f"out{number}")
        assert out.keys() == new.keys()
        for name, values in new.items():
            assert same_bits(out[name], formula(values, (1.0, post[name], base[name])))


@pytest.mark.parametrize("changes", [OLD_LLAVA, NEW_LLAVA], ids=["old names", "new names"])
@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float32"}, {"method": "ties", "density": 1.0}], ids=str
)
def test_a_text_delta_goes_to_the_text_part_of_a_multimodal_base_and_the_rest_stays(
    tmp_path, text, changes, options
):
    base, post, new = text
    extra = vision_state("" if changes is OLD_LLAVA else "model.")
    images = {"preprocessor_config.json": '{"size": 8}', "generation_config.json": '{"top_k": 7}'}
    paths = save(tmp_path / "base", base, TEXT), save(tmp_path / "post", post, TEXT)
    (tmp_path / "post/generation_config.json").write_text('{"top_k": 3}')
    new_base = save(tmp_path / "new", renamed(new, *changes) | extra, LLAVA)
    for name, content in images.items():
        (tmp_path / "new" / name).write_text(content)
    delta = str(tmp_path / "d.safetensors")
    compute(*paths, delta)
    report = apply(new_base, [delta], str(tmp_path / "out"), **options)
    assert set(report.left_out) == set(extra)
    out, width = read_model(tmp_path / "out"), getattr(torch, options.get("dtype", "bfloat16"))
    own = dict(zip(renamed(new, *changes), new, strict=True))
    assert out.keys() == {*own, *extra}
    for name, plain in own.items():
        wanted = formula(new[plain].float(), (1.0, post[plain], base[plain])).to(width)
        assert same_bits(out[name], wanted)
    assert all(same_bits(out[name], values.to(width)) for name, values in extra.items())
    made = json.loads((tmp_path / "out/config.json").read_text())
    assert (made["model_type"], made["vision_config"]) == ("llava", VISION)
    read = {name: json.loads((tmp_path / "out" / name).read_text()) for name in images}
    assert read == {"preprocessor_config.json": {"size": 8}, "generation_config.json": {"top_k": 3}}


def test_a_text_model_is_a_post_of_a_multimodal_base(tmp_path, text):
    base, post, new = text
    extra = vision_state("model.")
    paths = (
        save(tmp_path / "base", renamed(base, *NEW_LLAVA) | extra, LLAVA),
        save(tmp_path / "post", post, TEXT),
    )
    delta = str(tmp_path / "d.safetensors")
    assert set(compute(*paths, delta).left_out) == set(extra)
    assert verify(delta, base=paths[0], post=paths[1]).restores_post
    apply(save(tmp_path / "new", new, TEXT), [delta], str(tmp_path / "out"))
    out = read_model(tmp_path / "out")
    assert out.keys() == new.keys()
    assert all(same_bits(out[n], formula(new[n], (1.0, post[n], base[n]))) for n in new)


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize("wide", ["base", "post", "new", "base new"])
@pytest.mark.parametrize("tied", ["base", "post", "new", "base post", "base new", "post new"])
def test_ties_are_resolved_under_the_names_of_each_side(tmp_path, text, wide, tied):
    """wide: the sides that are multimodal, in the older names, where the head has a prefix as well."""
    states = dict(zip(("base", "post", "new"), text, strict=True))
    heads = {side: state[EMBEDDING if side in tied else HEAD] for side, state in states.items()}
    paths = {}
    for side, state in states.items():
        tie = {"tie_word_embeddings": side in tied}
        own = {name: values for name, values in state.items() if name != HEAD or side not in tied}
        config: dict = TEXT | tie
        if side in wide:
            own = renamed(own, *OLD_LLAVA) | vision_state("")
            config = LLAVA | tie | {"text_config": TEXT | tie}
        paths[side] = save(tmp_path / side, own, config)
    delta = str(tmp_path / "d.safetensors")
    made = compute(paths["base"], paths["post"], delta)
    assert set(made.only_post) == set(vision_state("") if wide == "post" else ())
    assert verify(delta, base=paths["base"], post=paths["post"]).restores_post
    apply(paths["new"], [delta], str(tmp_path / "out"), old_base=paths["base"])

    is_wide = "new" in wide or wide == "post"
    names = {name: name for name in states["new"]}
    names = {plain: own for own, plain in renamed(names, *OLD_LLAVA).items()} if is_wide else names
    out = read_model(tmp_path / "out")
    assert out.keys() == {*names.values(), *(vision_state("") if is_wide else ())}
    for name, own in names.items():
        sides = [heads[side] if name == HEAD else states[side][name] for side in ("new", "post", "base")]
        assert same_bits(out[own], formula(sides[0], (1.0, *sides[1:])))


def test_heads_of_several_deltas_get_one_name_whatever_each_calls_its_own(tmp_path, text):
    base, post, new = text
    tied, own = TEXT | {"tie_word_embeddings": True}, LLAVA | {"text_config": TEXT}
    bare = [{n: t for n, t in state.items() if n != HEAD} for state in (base, new)]
    paths = save(tmp_path / "base", bare[0], tied), save(tmp_path / "text", post, TEXT)
    wide = save(tmp_path / "wide", renamed(post, *OLD_LLAVA), own)
    new_config = LLAVA | {"text_config": tied, "tie_word_embeddings": True}
    new_base = save(tmp_path / "new", renamed(bare[1], *NEW_LLAVA), new_config)
    deltas = [(Difference(*paths), 0.5), (Difference(paths[0], wide), 0.25)]
    apply(new_base, deltas, str(tmp_path / "out"))
    heads = {name: values for name, values in read_model(tmp_path / "out").items() if HEAD in name}
    terms = ((scale, post[HEAD], base[EMBEDDING]) for scale in (0.5, 0.25))
    assert same_bits(heads.pop(HEAD), formula(new[EMBEDDING], *terms)) and not heads


@pytest.mark.parametrize("copies", [(HEAD,), (HEAD, "model.extra.weight")], ids=["head", "two"])
def test_a_base_that_lies_with_copies_of_its_embedding_is_still_the_base_of_a_delta(
    tmp_path, text, copies
):
    base, post, _ = ({n: t for n, t in state.items() if n != HEAD} for state in text)
    config = TEXT | {"tie_word_embeddings": True}
    paths = save(tmp_path / "base", base, config), save(tmp_path / "post", post, config)
    delta = str(tmp_path / "d.safetensors")
    compute(*paths, delta)
    twice = base | {name: base[EMBEDDING].clone() for name in copies}
    other = save(tmp_path / "twice", twice, config)
    assert verify(delta, base=other, post=paths[1]).restores_post
    report = apply(other, [delta], str(tmp_path / "out"), old_base=other)
    assert report.case.startswith("same base")
    out = read_model(tmp_path / "out")
    assert out.keys() == post.keys()
    assert all(same_bits(out[name], post[name]) for name in post)

    twice[HEAD] = twice[HEAD] + 1
    with pytest.raises(OtherCheckpoint, match=r"lm_head\.weight is not in"):
        verify(delta, base=save(tmp_path / "untied", twice, config))


def test_what_a_text_part_has_and_a_text_delta_has_not_is_refused_by_name(tmp_path, text):
    base, post, new = text
    paths = save(tmp_path / "base", base, TEXT), save(tmp_path / "post", post, TEXT)
    odd = {"model.language_model.layers.0.self_attn.k_proj.weight": torch.ones(16, 16)}
    new_base = save(tmp_path / "new", renamed(new, *NEW_LLAVA) | vision_state("model.") | odd, LLAVA)
    with pytest.raises(Mismatch) as error:
        apply(new_base, [Difference(*paths)], str(tmp_path / "out"))
    assert error.value.problems == (f"{next(iter(odd))} is only in the new base",)


def test_two_names_of_one_parameter_are_refused_by_name(tmp_path, text):
    base, post, _ = text
    twice = renamed(post, *OLD_LLAVA) | {
        "model.language_model.norm.weight": post["model.norm.weight"] * 2
    }
    paths = save(tmp_path / "base", base, TEXT), save(tmp_path / "post", twice, LLAVA)
    with pytest.raises(Mismatch) as error:
        compute(*paths, str(tmp_path / "d.safetensors"))
    assert error.value.problems[0] == "model.norm.weight is only in base"
    assert len(error.value.problems) == 3


def test_what_does_not_fit_is_said_of_the_delta_that_has_it(tmp_path, text):
    base, post, new = text
    name = "model.layers.0.mlp.up_proj.weight"
    less = [{n: t for n, t in state.items() if n != name} for state in (base, post)]
    wide = [{**state, name: torch.ones(30, 16, dtype=torch.bfloat16)} for state in (base, post)]
    deltas = [
        Difference(*(save(tmp_path / f"{kind}{n}", state, TEXT) for n, state in enumerate(states)))
        for kind, states in (("less", less), ("wide", wide))
    ]
    with pytest.raises(Mismatch) as error:
        apply(save(tmp_path / "new", new, TEXT), deltas, str(tmp_path / "out"))
    (line,) = (each for each in error.value.problems if "30 × 16" in each)
    assert line.endswith(f"in {tmp_path / 'wide1'} - {tmp_path / 'wide0'}")


# -- experts ------------------------------------------------------------------------------------------

EXPERTS = 12  # more than nine: 10 comes after 9, not after 1
MIXTRAL = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 50,
    "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_local_experts": EXPERTS, "num_experts_per_tok": 1,
    "tie_word_embeddings": False,
}  # fmt: skip
APART, FUSED = "model.layers.0.block_sparse_moe.", "model.layers.0.mlp."
FORMS = (("w1", (8, 16)), ("w2", (16, 8)), ("w3", (8, 16)))


def experts_apart(seed: int) -> State:
    """A router and experts as the Hub's Mixtrals have them."""
    generator = torch.Generator().manual_seed(seed)
    names = {
        f"{APART}experts.{number}.{part}.weight": form
        for number in range(EXPERTS)
        for part, form in FORMS
    }
    names[f"{APART}gate.weight"] = (EXPERTS, 16)
    return {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in names.items()}


def fused(state: State) -> State:
    """The same as transformers 5 holds it."""
    w1, w2, w3 = (
        torch.stack([state[f"{APART}experts.{number}.{part}.weight"] for number in range(EXPERTS)])
        for part, _ in FORMS
    )
    return {
        f"{FUSED}experts.gate_up_proj": torch.cat([w1, w3], dim=1),
        f"{FUSED}experts.down_proj": w2,
        f"{FUSED}gate.weight": state[f"{APART}gate.weight"],
    }


@pytest.mark.parametrize("sides", ["base", "post", "new", "base post", "base new", "post new"])
@pytest.mark.parametrize("on_the_way", [False, True], ids=["stored", "on the way"])
def test_experts_that_are_one_tensor_on_a_side_meet_those_that_lie_apart(tmp_path, sides, on_the_way):
    base = experts_apart(1)
    apart = {"base": cast(base), "post": cast(near(base, 2)), "new": cast(near(base, 3, scale=1e-2))}
    lying = {name: fused(state) if name in sides else state for name, state in apart.items()}
    paths = {name: save(tmp_path / name, state, MIXTRAL) for name, state in lying.items()}
    delta = str(tmp_path / "d.safetensors")
    made = compute(paths["base"], paths["post"], delta)
    assert verify(delta, base=paths["base"], post=paths["post"]).restores_post
    assert any("tensors" in line for line in made.renamed) is (("base" in sides) != ("post" in sides))

    what = Difference(paths["base"], paths["post"]) if on_the_way else delta
    apply(paths["new"], [what], str(tmp_path / "out"), old_base=paths["base"])
    out = read_model(tmp_path / "out")
    form = fused if "post" in sides else dict  # the delta's
    new, post, old = (form(apart[name]) for name in ("new", "post", "base"))
    router = next(name for name in lying["new"] if "gate.weight" in name)
    assert {name for name in out if "gate.weight" in name} == {router}
    for name, values in new.items():
        wanted = formula(values, (1.0, post[name], old[name]))
        assert same_bits(out[router if "gate.weight" in name else name], wanted)

    apply(paths["base"], [what], str(tmp_path / "again"))
    restored = read_model(tmp_path / "again")
    assert restored.keys() == lying["post"].keys()
    assert all(same_bits(restored[name], values) for name, values in lying["post"].items())


def test_patterns_are_of_the_results_names(tmp_path):
    base = cast(experts_apart(1))
    paths = (
        save(tmp_path / "base", fused(base), MIXTRAL),
        save(tmp_path / "post", fused(cast(near(base, 2))), MIXTRAL),
    )
    new_base = save(tmp_path / "new", base, MIXTRAL)
    report = apply(new_base, [Difference(*paths)], str(tmp_path / "out"), skip="gate_up_proj")
    assert report.skipped == (f"{FUSED}experts.gate_up_proj",)


@pytest.mark.parametrize("odd", ["an expert is missing", "one has another format", "other shapes"])
def test_experts_that_do_not_make_up_the_one_tensor_are_refused_by_name(tmp_path, odd):
    apart, whole = cast(experts_apart(1)), fused(cast(experts_apart(2)))
    name = f"{APART}experts.3.w2.weight"
    if odd == "other shapes":
        whole[f"{FUSED}experts.down_proj"] = torch.ones(EXPERTS, 8, 16, dtype=torch.bfloat16)
    else:
        values = apart.pop(name)
        apart |= {name: values.float()} if odd == "one has another format" else {}
    paths = save(tmp_path / "base", apart, MIXTRAL), save(tmp_path / "post", whole, MIXTRAL)
    with pytest.raises(Mismatch) as error:
        compute(*paths, str(tmp_path / "d.safetensors"))
    missing = odd == "an expert is missing"
    assert len(error.value.problems) == EXPERTS - missing
    assert all("w2.weight is a part of" in line for line in error.value.problems)
