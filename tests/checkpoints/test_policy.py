"""Which side each key of config.json comes from: architecture from the new base, tokens from post."""

from __future__ import annotations

import pytest

from pipeline.checkpoints.policy import transfer_config, vocab_size

BASE = {
    "architectures": ["LlamaForCausalLM"], "rope_theta": 500000.0, "rope_scaling": {"factor": 8},
    "vocab_size": 100, "eos_token_id": 1, "bos_token_id": 0, "hidden_size": 16,
}  # fmt: skip
POST = {
    "architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "vocab_size": 104,
    "eos_token_id": [1, 103], "pad_token_id": 102, "hidden_size": 16, "_name_or_path": "x",
}  # fmt: skip


def test_architecture_and_rope_come_from_the_new_base_and_token_ids_from_post():
    config = transfer_config(BASE, POST, vocab_size=104)
    assert config == {
        **BASE, "vocab_size": 104, "eos_token_id": [1, 103], "pad_token_id": 102,
    }  # fmt: skip


def test_the_vocabularys_size_is_left_alone_if_none_is_given():
    assert transfer_config(BASE, POST, vocab_size=None)["vocab_size"] == 100


def test_in_a_multimodal_config_the_text_parts_vocabulary_is_meant():
    base = {"text_config": {"vocab_size": 100, "hidden_size": 16}, "vision_config": {}}
    assert vocab_size(base) == 100
    config = transfer_config(base, {}, vocab_size=104)
    assert config["text_config"] == {"vocab_size": 104, "hidden_size": 16}
    assert "vocab_size" not in config
    assert base["text_config"]["vocab_size"] == 100


def test_ids_of_tokens_in_a_text_part_are_those_of_posts_text_part_or_of_a_post_of_text_alone():
    base = {"eos_token_id": 0, "text_config": {"eos_token_id": 1}}
    post = {"eos_token_id": [2, 3], "text_config": {"eos_token_id": 2, "pad_token_id": 4}}
    assert transfer_config(base, post, vocab_size=None) == post
    text = {"eos_token_id": 5, "sep_token_id": 6}
    made = transfer_config(base, text, vocab_size=None)
    assert made == {**text, "text_config": {"eos_token_id": 5}}


def test_without_a_config_of_the_new_base_there_is_none():
    assert transfer_config(None, POST, vocab_size=100) is None


def test_without_a_config_of_post_the_new_bases_is_kept():
    assert transfer_config(BASE, None, vocab_size=None) == BASE


def test_the_configs_that_were_given_are_left_alone():
    base, post = dict(BASE), dict(POST)
    transfer_config(base, post, vocab_size=999)["rope_theta"] = 0
    assert (base, post) == (BASE, POST)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (None, None), ({}, None), ({"vocab_size": 7}, 7), ({"vocab_size": "7"}, None),
        ({"vocab_size": True}, None), ({"text_config": None}, None), ({"text_config": []}, None),
        ({"text_config": {"vocab_size": 7}}, 7),
        ({"vocab_size": 8, "text_config": {"vocab_size": 7}}, 8),
    ],
)  # fmt: skip
def test_the_vocabularys_size_is_an_integer_that_the_config_names_or_unknown(config, size):
    assert vocab_size(config) == size
