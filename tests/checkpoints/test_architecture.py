"""What is asked of transformers about a config, and that a config cannot make it do more."""

from __future__ import annotations

import pytest

from pipeline.checkpoints.architecture import Architecture, default_of

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}


def test_names_with_and_without_the_prefix_are_one_parameter():
    whole = Architecture.of(LLAMA)
    body = Architecture.of({**LLAMA, "architectures": ["LlamaModel"]})
    assert whole is not None and body is not None
    with_prefix = whole.rename(["model.norm.weight", "lm_head.weight"], whole.prefix_for(body))
    without = body.rename(["norm.weight"], body.prefix_for(whole))
    assert with_prefix["model.norm.weight"] == without["norm.weight"]
    assert with_prefix["lm_head.weight"].key == ("", "lm_head.weight")


def test_a_config_without_architectures_is_of_its_types_body():
    whole, body = Architecture.of(LLAMA), Architecture.of({**LLAMA, "architectures": None})
    assert whole is not None
    assert body is not None
    named = whole.rename(["model.norm.weight"], whole.prefix_for(body))["model.norm.weight"]
    for name in ("norm.weight", "model.norm.weight"):
        assert body.rename([name], body.prefix_for(whole))[name] == named


def test_a_default_is_the_class_s_own():
    assert default_of({"model_type": "gemma"}, "tie_word_embeddings") is True
    assert default_of(LLAMA, "tie_word_embeddings") is False
    assert default_of(LLAMA, "no_such_key") is None


@pytest.mark.parametrize(
    "odd",
    [
        {"model_type": "of-nobody"}, {"model_type": ["llama"]}, {"model_type": None},
        {"architectures": ["AutoModel"]}, {"architectures": ["pipeline"]}, {"architectures": "Llama"},
        {"architectures": []}, {"architectures": [3]}, {"architectures": ["os.system"]},
        {"num_hidden_layers": 10**9}, {"num_labels": 10**9}, {"text": {"n_layers": 10**9}},
        {"depths": [1, 10**9]}, {"hidden_size": -1}, {"hidden_size": "x"}, {"num_attention_heads": 0},
        {"backbone": "resnet50", "use_pretrained_backbone": True}, {"use_timm_backbone": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_is_odd_or_asks_for_much_makes_nothing(odd):
    assert Architecture.of({**LLAMA, **odd}) is None


def test_a_config_of_a_thousand_levels_makes_nothing():
    deep: dict = {}
    for _ in range(5000):
        deep = {"x": deep}
    assert Architecture.of({**LLAMA, "x": deep}) is None
    assert default_of({**LLAMA, "x": deep}, "tie_word_embeddings") is None


def test_implementations_that_a_config_names_are_not_looked_for():
    named = {
        "attn_implementation": "somebody/kernel",
        "_attn_implementation": "x",
        "auto_map": {"A": "b"},
    }
    assert Architecture.of({**LLAMA, **named}) is not None
