"""Where in a model a tensor sits is told by its name, of any family."""

from __future__ import annotations

import pytest

from pipeline.analysis.naming import seat_of


@pytest.mark.parametrize(
    ("name", "layer", "group", "module"),
    [
        ("model.layers.3.self_attn.q_proj.weight", 3, "attention", "q_proj"),
        ("model.layers.3.self_attn.q_proj.bias", 3, "attention", "q_proj"),
        ("model.layers.3.self_attn.q_norm.weight", 3, "norm", "q_norm"),
        ("model.layers.125.mlp.down_proj.weight", 125, "mlp", "down_proj"),
        ("model.layers.0.mlp.experts.7.w1.weight", 0, "mlp", "w1"),
        ("model.layers.0.block_sparse_moe.gate.weight", 0, "mlp", "gate"),
        ("model.layers.0.input_layernorm.weight", 0, "norm", "input_layernorm"),
        ("transformer.h.11.attn.c_attn.weight", 11, "attention", "c_attn"),
        ("transformer.h.11.mlp.c_fc.weight", 11, "mlp", "c_fc"),
        ("transformer.h.11.ln_1.bias", 11, "norm", "ln_1"),
        ("transformer.wte.weight", None, "embedding", "wte"),
        ("model.embed_tokens.weight", None, "embedding", "embed_tokens"),
        ("lm_head.weight", None, "embedding", "lm_head"),
        ("model.norm.weight", None, "norm", "norm"),
        ("backbone.layers.2.mixer.A_log", 2, "other", "A_log"),
        ("weight", None, "other", "weight"),
        ("", None, "other", ""),
        ("layers.99999999999999999999.x", None, "other", "x"),
        ("layers.².x", None, "other", "x"),
    ],
)
def test_a_name_says_where_its_tensor_sits(name, layer, group, module):
    seat = seat_of(name)
    assert (seat.layer, seat.group, seat.module) == (layer, group, module)
