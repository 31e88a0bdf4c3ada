"""Which keys of two configs must agree, whose value counts where they need not, and the table of it."""

from __future__ import annotations

import pytest

from pipeline.checkpoints.config_policy import (
    check_choices,
    config_table,
    parse_choices,
    require_one_architecture,
    settle_config,
)
from pipeline.errors import Mismatch, UsageError

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e4, "eos_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip


def problems(base: dict, post: dict, decided=()) -> tuple[str, ...]:
    with pytest.raises(Mismatch) as error:
        require_one_architecture(base, post, where="here", decided=decided, noun="the new base")
    return error.value.problems


def agree(base: dict | None, post: dict | None, decided=()) -> None:
    require_one_architecture(base, post, where="here", decided=decided, noun="the new base")


def test_every_key_that_gives_the_weights_another_meaning_is_named_at_once():
    other = {
        "model_type": "mistral",
        "num_attention_heads": 8,
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-5,
    }
    assert problems(LLAMA, {**LLAMA, **other}) == (
        'model_type is "llama" in the new base, "mistral" in post',
        "num_attention_heads is 4 in the new base, 8 in post",
        'hidden_act is "silu" in the new base, "gelu" in post',
        "rms_norm_eps is 1e-06 in the new base, 1e-05 in post",
    )


def test_a_key_that_somebody_decided_does_not_stop():
    agree(LLAMA, {**LLAMA, "rms_norm_eps": 1e-5}, decided=("rms_norm_eps",))
    assert (
        len(problems({**LLAMA, "hidden_act": "relu"}, {**LLAMA, "rms_norm_eps": 1}, ("hidden_act",)))
        == 1
    )


@pytest.mark.parametrize(
    "harmless",
    [{"rope_theta": 5e5}, {"rope_scaling": {"factor": 8}}, {"max_position_embeddings": 9},
     {"sliding_window": 7}, {"eos_token_id": 9}, {"attention_dropout": 0.1}, {"use_cache": False},
     {"tie_word_embeddings": False}, {"transformers_version": "4"}, {"anything": "new"}],
    ids=str,
)  # fmt: skip
def test_everything_else_may_differ(harmless):
    agree(LLAMA, {**LLAMA, **harmless})


def test_who_does_not_say_what_follows_from_other_keys_agrees():
    agree(LLAMA, {**LLAMA, "head_dim": 16, "num_key_value_heads": 4, "attention_bias": False})
    agree({**LLAMA, "head_dim": None}, {**LLAMA, "head_dim": 16})
    assert problems(LLAMA, {**LLAMA, "head_dim": 32}) == ("head_dim is 16 in the new base, 32 in post",)
    assert len(problems(LLAMA, {**LLAMA, "num_key_value_heads": 2})) == 1


def test_without_a_config_there_is_nothing_to_compare():
    agree(None, LLAMA)
    agree(LLAMA, None)


def test_of_a_multimodal_config_the_text_part_meets_a_config_of_text():
    multimodal = {"model_type": "llava", "architectures": ["Llava"], "text_config": LLAMA}
    agree(multimodal, LLAMA)
    agree(LLAMA, multimodal)
    agree(multimodal, multimodal)
    wider = {**multimodal, "text_config": {**LLAMA, "hidden_size": 128}}
    assert problems(wider, LLAMA) == ("text_config.hidden_size is 128 in the new base, 64 in post",)
    assert len(problems(wider, multimodal)) == 1
    other = {**multimodal, "text_config": {**LLAMA, "model_type": "mistral"}}
    said = ('text_config.model_type is "mistral" in the new base, "llama" in post',)
    assert problems(other, multimodal) == said


# -- choices ------------------------------------------------------------------------------------------


def test_choices_are_written_as_side_and_key():
    assert parse_choices(["post:rope_scaling", "base:a:b"]) == {"rope_scaling": "post", "a:b": "base"}
    assert parse_choices({"rope_scaling": "post"}) == {"rope_scaling": "post"}
    for wrong in ("rope_scaling", "new:rope", "post:", ":x", ""):
        with pytest.raises(UsageError, match="is not base:KEY or post:KEY"):
            parse_choices([wrong])
    with pytest.raises(UsageError, match="from both sides"):
        parse_choices(["post:x", "base:x"])


def test_a_key_that_no_config_has_and_a_side_that_there_is_not_are_errors():
    check_choices({"rope_theta": "post", "only": "base"}, LLAMA, {"only": 1}, where="here")
    check_choices({"hidden_size": "post"}, {"text_config": LLAMA}, None, where="here")
    with pytest.raises(UsageError, match="no config has the key 'rope_tetha'"):
        check_choices({"rope_tetha": "post"}, LLAMA, LLAMA, where="here")
    with pytest.raises(UsageError, match="can't be taken from 'old'"):
        check_choices({"rope_theta": "old"}, LLAMA, LLAMA, where="here")


def settled(config: dict, base: dict, post: dict, choices=None, is_untied=False) -> dict:
    found = settle_config(config, base, post, choices=choices or {}, is_untied=is_untied)
    assert found is not None
    return found


def test_what_was_chosen_counts_and_a_side_without_the_key_takes_it_away():
    post = {**LLAMA, "rope_theta": 7}
    del post["hidden_act"]
    assert settled(LLAMA, LLAMA, post) == LLAMA
    assert settled(LLAMA, LLAMA, post, {"rope_theta": "post"}) == {**LLAMA, "rope_theta": 7}
    assert "hidden_act" not in settled(LLAMA, LLAMA, post, {"hidden_act": "post"})
    assert settled(post, LLAMA, post, {"eos_token_id": "base"})["eos_token_id"] == 2


def test_in_a_multimodal_config_choices_go_to_the_text_part():
    base = {"text_config": LLAMA, "image_token_index": 9}
    post = {**LLAMA, "rope_theta": 7}
    for key in ("rope_theta", "text_config.rope_theta"):
        made = settled(base, base, post, {key: "post"})
        assert made == {"text_config": {**LLAMA, "rope_theta": 7}, "image_token_index": 9}
        (row,) = (
            each
            for each in config_table(base, post, made, {key: "post"})
            if "rope" in each.key and "." in each.key
        )
        assert (row.result, row.whose) == ("7", "post, as asked")
    assert base["text_config"] is LLAMA


def test_a_part_that_was_chosen_counts_though_the_whole_is_taken_from_elsewhere():
    base, post = ({"text_config": {**LLAMA, "a": n, "b": n}} for n in (1, 2))
    choices = {"a": "base", "text_config": "post"}
    made = settled(base, base, post, choices)
    assert (made["text_config"]["a"], made["text_config"]["b"]) == (1, 2)
    said = {row.key: row.whose for row in config_table(base, post, made, choices)}
    assert said == {"text_config.a": "base, as asked", "text_config.b": "post, as asked"}


def test_no_choice_says_another_number_of_rows_than_the_result_has():
    base, post = {**LLAMA, "vocab_size": 50}, {**LLAMA, "vocab_size": 53}
    assert settled(post, base, post, {"vocab_size": "post"})["vocab_size"] == 53
    with pytest.raises(UsageError, match="vocab_size can't be 50, for the result has 53 rows"):
        settled(post, base, post, {"vocab_size": "base"})
    whole = [{"text_config": each} for each in (base, post)]
    assert settled(whole[1], *whole, {"text_config": "base"})["text_config"]["vocab_size"] == 53


def test_a_choice_without_a_config_that_it_could_go_to_is_an_error():
    with pytest.raises(UsageError, match="the new base has none"):
        settle_config(None, None, LLAMA, choices={"rope_theta": "post"}, is_untied=False)
    with pytest.raises(UsageError, match=r"neither model has a config\.json"):
        check_choices({"rope_theta": "post"}, None, None, where="here")


def test_a_model_type_whose_text_part_lies_flat_in_older_configs_is_itself():
    nested = {"model_type": "qwen2_vl", "text_config": {**LLAMA, "model_type": "qwen2_vl_text"}}
    flat = {**LLAMA, "model_type": "qwen2_vl"}
    agree(nested, flat)
    agree(flat, nested)
    assert len(problems({**flat, "hidden_size": 128}, nested)) == 1


def test_a_head_of_its_own_is_said_wherever_a_tie_was():
    assert settled(LLAMA, LLAMA, LLAMA, is_untied=True)["tie_word_embeddings"] is False
    both = settled({"text_config": LLAMA}, LLAMA, LLAMA, is_untied=True)
    assert both["tie_word_embeddings"] is both["text_config"]["tie_word_embeddings"] is False


# -- the table ------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_key_that_is_not_the_same_everywhere():
    base = {"a": 1, "b": 1, "same": 1, "dtype": "bfloat16"}
    post = {"a": 2, "b": 2, "same": 1, "c": float("inf"), "dtype": "float32"}
    result = {"a": 1, "b": 2, "same": 3}
    rows = config_table(base, post, result, {"b": "post"})
    assert [(row.key, row.base, row.post, row.result, row.whose) for row in rows] == [
        ("a", "1", "2", "1", "new base"),
        ("b", "1", "2", "2", "post, as asked"),
        ("c", "absent", "Infinity", "absent", "new base"),
        ("same", "1", "1", "3", "the run"),
    ]
    noise = {"text_config": {"dtype": "float32", "_name_or_path": "x"}}
    assert config_table(base, {**base, **noise}, base, {}) == ()
    assert config_table(base, base, base, {}) == config_table(base, post, None, {}) == ()


def test_values_of_any_length_have_a_cell():
    (row,) = config_table({"a": "x" * 10_000}, {}, {}, {})
    assert len(row.base) == 200
