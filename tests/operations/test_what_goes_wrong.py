"""What goes wrong where deltas meet models that they were not made for: a test for each row of the list.

The list is that of the project's notes on the method: failures seen in FastChat, mergekit, LLaVA, peft
and others. Each comes out right here, or is refused with its reason. Tests are called after their row.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import State, cast, formula, near, random_state, read_model, same_bits, write_model
from sources import ROOT

from pipeline import Difference, apply, combine, compute, verify
from pipeline.errors import Mismatch, OtherCheckpoint, QuantisedCheckpoint

FAMILY = ROOT / "examples/family"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def sum_of(folder: Path, base: Path | str, post: Path | str, new_base: Path | str, **options) -> Path:
    """post - base as a delta, added to the new base; the result's folder."""
    compute(str(base), str(post), str(folder / "d.safetensors"), overwrite=True)
    apply(str(new_base), [str(folder / "d.safetensors")], str(folder / "out"), **options)
    return folder / "out"


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


# -- 1: the vocabulary grew ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_row_1_new_rows_of_a_grown_vocabulary_are_posts_whole(tmp_path, scale):
    out = sum_of(tmp_path, FAMILY / "base-v1", FAMILY / "post-v1", FAMILY / "base-v2", scale=scale)
    rows, post, old, new = (
        read_model(each)[EMBEDDING]
        for each in (out, FAMILY / "post-v1", FAMILY / "base-v1", FAMILY / "base-v2")
    )
    known = len(new)
    assert known < len(post) == len(rows) == config_of(out)["vocab_size"]
    assert same_bits(rows[known:], post[known:])
    assert same_bits(rows[:known], formula(new, (scale, post[:known], old)))


# -- 3: tokenizer, chat template and generation config from the wrong side ----------------------------


def test_row_3_tokenizer_template_and_generation_config_are_posts(tmp_path):
    out = sum_of(tmp_path, FAMILY / "base-v1", FAMILY / "post-v1", FAMILY / "base-v2")
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ):
        assert (out / name).read_bytes() == (FAMILY / "post-v1" / name).read_bytes()
    assert config_of(out)["eos_token_id"] == config_of(FAMILY / "post-v1")["eos_token_id"] == 1023
    assert config_of(FAMILY / "base-v2")["eos_token_id"] == 0


# -- 4: the config changed between bases --------------------------------------------------------------


def family(
    folder: Path, state: State, new: dict, post: dict | None = None, old: dict | None = None
) -> tuple[str, str, str]:
    """Base, post and new base of one state, with what their configs say."""
    old = {"rope_theta": 10000.0, "num_attention_heads": 4, "hidden_size": 16, **(old or {})}
    return (
        str(write_model(folder / "base", cast(state), **old)),
        str(write_model(folder / "post", cast(near(state, 2)), **old, **(post or {}))),
        str(write_model(folder / "new", cast(near(state, 3)), **{**old, **new})),
    )


LONGER = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}


def test_row_4_rope_and_context_length_are_the_new_bases_and_every_difference_is_listed(tmp_path):
    new = {**LONGER, "max_position_embeddings": 131072}
    base, post, new_base = family(tmp_path, random_state(1), new, {"eos_token_id": 7})
    compute(base, post, str(tmp_path / "d.safetensors"))
    report = apply(new_base, [str(tmp_path / "d.safetensors")], str(tmp_path / "out"))
    made = config_of(tmp_path / "out")
    assert {key: made[key] for key in new} == new
    assert made["eos_token_id"] == 7
    assert [(row.key, row.base, row.post, row.result, row.whose) for row in report.config_table] == [
        ("eos_token_id", "absent", "7", "7", "post"),
        ("max_position_embeddings", "131072", "absent", "131072", "new base"),
        ("rope_scaling", '{"factor": 8.0, "rope_type": "llama3"}', "absent",
         '{"factor": 8.0, "rope_type": "llama3"}', "new base"),
        ("rope_theta", "500000.0", "10000.0", "500000.0", "new base"),
    ]  # fmt: skip


def test_row_4_a_key_may_be_taken_from_the_other_side(tmp_path):
    base, post, new_base = family(tmp_path, random_state(1), LONGER)
    choices = {"rope_scaling": "post", "rope_theta": "post"}
    made = config_of(sum_of(tmp_path, base, post, new_base, take_config=choices))
    assert made["rope_theta"] == 10000.0
    assert "rope_scaling" not in made


def test_row_4_another_number_of_heads_stops_although_every_shape_fits(tmp_path):
    new = {"num_attention_heads": 8, "hidden_act": "gelu", "rms_norm_eps": 1e-5}
    old = {"hidden_act": "silu", "rms_norm_eps": 1e-6}
    base, post, new_base = family(tmp_path, random_state(1), new, old=old)
    with pytest.raises(Mismatch) as error:
        sum_of(tmp_path, base, post, new_base)
    assert error.value.problems == (
        "num_attention_heads is 8 in the new base, 4 in post",
        'hidden_act is "gelu" in the new base, "silu" in post',
        "rms_norm_eps is 1e-05 in the new base, 1e-06 in post",
    )
    assert "--take-config" in str(error.value.hint)
    assert not (tmp_path / "out").exists()


# -- 5: tied embeddings, missing lm_head ----------------------------------------------------------------


def with_head(state: State, seed: int) -> State:
    """`state` with a head of its own, near its embedding."""
    return {**state, HEAD: near({HEAD: state[EMBEDDING]}, seed, scale=1e-2)[HEAD]}


@pytest.mark.parametrize("base_tied", [True, False])
@pytest.mark.parametrize("post_tied", [True, False])
@pytest.mark.parametrize("new_tied", [True, False])
def test_row_5_a_head_is_the_embedding_where_it_is_tied_and_untied_if_any_side_is(
    tmp_path, base_tied, post_tied, new_tied
):
    old = random_state(1)
    tied = {"base": base_tied, "post": post_tied, "new": new_tied}
    states = {"base": old, "post": near(old, 2), "new": near(old, 3, scale=1e-2)}
    sides = {}
    for seed, (name, is_tied) in enumerate(tied.items()):
        sides[name] = cast(states[name] if is_tied else with_head(states[name], seed))
        write_model(tmp_path / name, sides[name], tie_word_embeddings=is_tied)
    out = sum_of(tmp_path, *(tmp_path / name for name in tied))
    made = read_model(out)

    def head(state: State) -> torch.Tensor:
        return state.get(HEAD, state[EMBEDDING])

    base, post, new = sides.values()
    assert same_bits(made[EMBEDDING], formula(new[EMBEDDING], (1.0, post[EMBEDDING], base[EMBEDDING])))
    assert same_bits(head(made), formula(head(new), (1.0, head(post), head(base))))
    all_tied = base_tied and post_tied and new_tied
    assert config_of(out)["tie_word_embeddings"] is all_tied
    assert (HEAD in made) is not all_tied

    proof = verify(
        str(tmp_path / "d.safetensors"), base=str(tmp_path / "base"), post=str(tmp_path / "post")
    )
    assert proof.restores_post
    again = apply(str(tmp_path / "base"), [str(tmp_path / "d.safetensors")], str(tmp_path / "again"))
    assert again.case.startswith("same base")
    restored = read_model(tmp_path / "again")
    assert all(same_bits(restored[name], values) for name, values in post.items())


def test_row_5_subtracting_in_place_over_shared_storage_is_wrong_and_ours_is_right(tmp_path):
    """FastChat's make_delta and apply_delta loop `param.data -= base[name]` and `+=` over a state dict.

    There `lm_head.weight` and the embedding are two names of one storage, so it is subtracted, and then
    added, twice: base + 2 (post - 2 base). (lm-sys/FastChat, fastchat/model/make_delta.py at 0e2d9e4 and
    apply_delta.py at 0283a0b.)
    """

    def load(name: str) -> State:
        state = read_model(FAMILY / name)
        return {**state, HEAD: state[EMBEDDING]}  # one storage, as in a loaded model's state dict

    base, post, new_base = (load(name) for name in ("base-v1", "base-v2", "base-v1"))
    right = {name: values.clone() for name, values in post.items()}
    for name, values in post.items():
        values -= base[name]
    for name, values in new_base.items():
        values += post[name]
    twice = 2 * right[EMBEDDING].float() - 3 * base[EMBEDDING].float()
    assert torch.allclose(new_base[EMBEDDING].float(), twice, rtol=0.05, atol=1e-2)
    assert (new_base[EMBEDDING] != right[EMBEDDING]).float().mean() > 0.99
    ours = read_model(sum_of(tmp_path, FAMILY / "base-v1", FAMILY / "base-v2", FAMILY / "base-v1"))
    assert all(same_bits(ours[name], right[name]) for name in right if name != HEAD)


def test_row_5_a_head_that_is_missing_without_a_tie_is_refused_by_name(tmp_path):
    state = random_state(1)
    base = write_model(tmp_path / "base", cast(with_head(state, 5)), tie_word_embeddings=False)
    post = write_model(tmp_path / "post", cast(near(state, 2)), tie_word_embeddings=False)
    for pair in ((base, post), (post, base)):
        with pytest.raises(Mismatch, match=f"{HEAD} is only in"):
            compute(*map(str, pair), str(tmp_path / "d.safetensors"))
    assert not (tmp_path / "d.safetensors").exists()


# -- 11: tensors only in post ---------------------------------------------------------------------------


PROJECTOR = {
    "model.mm_projector.weight": torch.randn(16, 24, generator=torch.Generator().manual_seed(9)),
    "model.mm_projector.bias": torch.tensor([0.0, -0.0, 1.5]),
    "logit_scale": torch.tensor(2.659),
}


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_row_11_tensors_only_in_post_are_carried_whole_at_any_scale(tmp_path, scale, dtype):
    state, extra = random_state(1), cast(PROJECTOR)
    base, post, new_base = cast(state), {**cast(near(state, 2)), **extra}, cast(near(state, 3))
    for name, tensors in (("base", base), ("post", post), ("new", new_base)):
        write_model(tmp_path / name, tensors)
    delta = str(tmp_path / "d.safetensors")
    made = compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    assert set(made.only_post) == set(extra)
    report = apply(str(tmp_path / "new"), [(delta, scale)], str(tmp_path / "out"), dtype=dtype)
    assert set(report.only_post) == set(extra)
    pair = Difference(str(tmp_path / "base"), str(tmp_path / "post"))
    fused = apply(str(tmp_path / "new"), [(pair, scale)], str(tmp_path / "fused"), dtype=dtype)
    assert fused.fingerprint == report.fingerprint
    out = read_model(tmp_path / "out")
    for name, values in extra.items():
        if dtype == "auto":
            assert same_bits(out[name], values)
        assert torch.equal(out[name], values.to(out[name].dtype))
    if dtype == "auto":
        for name, values in new_base.items():
            assert same_bits(out[name], formula(values, (scale, post[name], base[name])))


def test_row_11_post_comes_back_on_its_own_base_with_what_only_it_has(tmp_path):
    state = random_state(1)
    post = {**cast(near(state, 2)), **PROJECTOR}
    write_model(tmp_path / "base", cast(state))
    write_model(tmp_path / "post", post)
    delta, base = str(tmp_path / "d.safetensors"), str(tmp_path / "base")
    compute(base, str(tmp_path / "post"), delta)
    assert verify(delta, base=base, post=str(tmp_path / "post")).restores_post
    less = {name: values for name, values in cast(state).items() if name != "model.norm.weight"}
    with pytest.raises(OtherCheckpoint, match=r"model\.norm\.weight is missing"):
        verify(delta, base=str(write_model(tmp_path / "less", less)))
    report = apply(base, [delta], str(tmp_path / "out"))
    assert report.case.startswith("same base")
    restored = read_model(tmp_path / "out")
    assert restored.keys() == post.keys()
    assert all(same_bits(restored[name], values) for name, values in post.items())


FREQUENCIES = "model.layers.0.self_attn.rotary_emb.inv_freq"


def test_row_11_tables_that_are_computed_are_never_added(tmp_path):
    state = random_state(1)
    tables = {
        name: torch.full((4,), value) for name, value in (("base", 1.0), ("post", 2.0), ("new", 5.0))
    }
    for seed, (name, table) in enumerate(tables.items()):
        write_model(tmp_path / name, {**cast(near(state, seed)), FREQUENCIES: table})
    out = sum_of(tmp_path, tmp_path / "base", tmp_path / "post", tmp_path / "new", dtype="bfloat16")
    assert same_bits(read_model(out)[FREQUENCIES], tables["new"])
    sum_of(tmp_path / "same", tmp_path / "base", tmp_path / "post", tmp_path / "base")
    assert same_bits(read_model(tmp_path / "same/out")[FREQUENCIES], tables["post"])


@pytest.mark.parametrize(
    "having", [{"base"}, {"post"}, {"new"}, {"base", "post"}, {"base", "new"}, {"post", "new"}]
)
def test_row_11_a_table_that_is_computed_may_be_missing_anywhere(tmp_path, having):
    state, table = random_state(1), {FREQUENCIES: torch.ones(4)}
    for seed, name in enumerate(("base", "post", "new")):
        write_model(tmp_path / name, {**cast(near(state, seed)), **(table if name in having else {})})
    out = read_model(sum_of(tmp_path, *(tmp_path / name for name in ("base", "post", "new"))))
    stays = "new" in having or having == {"post"}  # the new base's own, or post's whole
    assert (FREQUENCIES in out) is stays


def test_row_11_tensors_only_in_the_base_or_only_in_the_new_base_are_refused_by_name(tmp_path):
    state, extra = random_state(1), {"model.extra.weight": torch.ones(3)}
    write_model(tmp_path / "plain", cast(state))
    write_model(tmp_path / "more", {**cast(state), **extra})
    with pytest.raises(Mismatch, match=r"model\.extra\.weight is only in base"):
        sum_of(tmp_path, tmp_path / "more", tmp_path / "plain", tmp_path / "plain")
    with pytest.raises(Mismatch, match=r"model\.extra\.weight is only in the new base"):
        sum_of(tmp_path, tmp_path / "plain", tmp_path / "plain", tmp_path / "more")
    with pytest.raises(Mismatch, match=r"model\.extra\.weight is carried whole, and the new base has"):
        sum_of(tmp_path, tmp_path / "plain", tmp_path / "more", tmp_path / "more", scale=0.5)


def test_row_11_what_is_carried_whole_stays_whole_in_a_combination(tmp_path):
    state, extra = random_state(1), cast({"model.mm_projector.weight": torch.full((3, 4), 2.0)})
    write_model(tmp_path / "base", cast(state))
    deltas = [str(tmp_path / f"{number}.safetensors") for number in range(3)]
    for number, times in enumerate((1.0, 1.0, 3.0)):
        own = {name: values * times for name, values in extra.items()}
        write_model(tmp_path / "post", {**cast(near(state, number)), **own})
        compute(str(tmp_path / "base"), str(tmp_path / "post"), deltas[number])
    both = str(tmp_path / "both.safetensors")
    combine([(deltas[0], 0.5), (deltas[1], 0.25)], both)
    apply(str(tmp_path / "base"), [(both, 0.5)], str(tmp_path / "out"))
    assert all(same_bits(read_model(tmp_path / "out")[name], values) for name, values in extra.items())
    with pytest.raises(Mismatch, match="carried whole, and not the same in"):
        combine([(deltas[0], 1.0), (deltas[2], 1.0)], str(tmp_path / "no.safetensors"))
    with pytest.raises(Mismatch, match="carried whole by more than one delta"):
        apply(str(tmp_path / "base"), deltas[:2], str(tmp_path / "no"))


# -- 6: rounding --------------------------------------------------------------------------------------


def test_row_6_the_sum_is_rounded_once_and_comes_back_from_ten_rounds_unchanged(tmp_path):
    first = cast(random_state(0))
    second = {name: tensor.to(torch.bfloat16) for name, tensor in near(random_state(0), 1).items()}
    base, post = (write_model(tmp_path / n, s) for n, s in (("base", first), ("post", second)))
    there, back = str(tmp_path / "there.safetensors"), str(tmp_path / "back.safetensors")
    compute(str(base), str(post), there)
    compute(str(post), str(base), back)
    at, naive = str(base), {name: tensor.clone() for name, tensor in first.items()}
    for number in range(10):
        for delta in (there, back):
            out = str(tmp_path / f"{number}-{Path(delta).stem}")
            apply(at, [delta], out)
            at = out
        for name, tensor in naive.items():
            change = second[name] - first[name]  # rounded to bfloat16, as the sum is
            naive[name] = (tensor + change) - change
    found = read_model(Path(at))
    assert all(same_bits(found[name], first[name]) for name in first)
    assert not all(same_bits(naive[name], first[name]) for name in first)


# -- 7: float16 overflows -----------------------------------------------------------------------------


def test_row_7_a_result_beyond_float16_is_refused_and_what_was_infinite_before_is_counted(tmp_path):
    state = random_state(0)
    large = {**state, EMBEDDING: state[EMBEDDING] * 5e6}
    for name, tensors in (("base", state), ("post", near(state, 1)), ("large", large)):
        write_model(tmp_path / name, cast(tensors))
    delta = str(tmp_path / "d.safetensors")
    compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    new, out, options = str(tmp_path / "large"), str(tmp_path / "out"), {"allow_unrelated": True}
    with pytest.raises(Mismatch, match=f"{EMBEDDING}.*beyond float16.*--dtype bfloat16"):
        apply(new, [delta], out, dtype="float16", **options)
    assert not (tmp_path / "out").exists()
    large[EMBEDDING][0, 0] = float("inf")
    write_model(tmp_path / "infinite", cast(large))
    report = apply(str(tmp_path / "infinite"), [delta], out, **options)
    assert list(report.nonfinite_tensors) == [(EMBEDDING, 1)]


# -- 8: quantised checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_row_8_quantised_weights_are_refused_by_the_name_of_their_method(tmp_path, method):
    state = cast(random_state(0))
    base = write_model(tmp_path / "base", state)
    post = write_model(tmp_path / "post", state, quantization_config={"quant_method": method})
    with pytest.raises(QuantisedCheckpoint, match=f"quantised with {method}") as refused:
        compute(str(base), str(post), str(tmp_path / "d.safetensors"))
    assert ("--dequantize" in str(refused.value)) == (method == "fp8")
