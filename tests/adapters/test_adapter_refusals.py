"""Adapters that can't be merged are refused by name, with all reasons; hostile ones do no harm."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import cast, random_state, write_model
from safetensors.torch import save_file

from pipeline import compute, copy, inspect, list_store, open_checkpoint
from pipeline.checkpoints.adapters.post import open_post
from pipeline.checkpoints.files import SAFETENSORS_INDEX
from pipeline.errors import CorruptFile, Mismatch, NotACheckpoint, NotFound, PipelineError

Q = "base_model.model.model.layers.0.self_attn.q_proj"
FACTORS = {f"{Q}.lora_A.weight": torch.ones(2, 16), f"{Q}.lora_B.weight": torch.ones(16, 2)}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


@pytest.fixture
def refuse(tmp_path: Path) -> Callable[..., str]:
    """Open an adapter as a post of a small base; returns what the error says."""
    base = str(write_model(tmp_path / "base", cast(random_state(1)), tie_word_embeddings=True))
    folder = tmp_path / "adapter"
    folder.mkdir()

    def run(
        error: type[PipelineError], state: dict[str, torch.Tensor] | None = None, **config: Any
    ) -> str:
        save_file(FACTORS if state is None else state, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
        with open_checkpoint(base) as below, pytest.raises(error) as caught:
            open_post(str(folder), below)
        return str(caught.value)

    return run


def test_all_reasons_are_told_at_once(refuse: Callable[..., str]) -> None:
    said = refuse(
        NotACheckpoint,
        peft_type="LOHA",
        layer_replication=[[0, 2]],
        trainable_token_indices=[1],
        target_parameters=["experts.down_proj"],
        init_lora_weights="pissa_niter_4",
    )
    for reason in ("LOHA", "layer_replication", "single tokens", "fused experts", "pissa_niter_4"):
        assert reason in said
    assert "merge_and_unload" in said


@pytest.mark.parametrize(
    "change",
    [
        {"lora_bias": True}, {"use_qalora": True}, {"use_bdlora": {"nblocks": 2}}, {"bias": "some"},
        {"alora_invocation_tokens": [1]}, {"kasa_config": {"beta": 1}}, {"megatron_config": {"a": 1}},
        {"a_key_of_tomorrow": 3},
    ],
)  # fmt: skip
def test_what_would_change_the_result_is_refused_by_its_name(
    change: dict[str, Any], refuse: Callable[..., str]
) -> None:
    assert next(iter(change)) in refuse(NotACheckpoint, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0}, {"r": -2}, {"r": "2"}, {"r": True}, {"r": 1 << 40}, {"lora_alpha": float("nan")},
        {"lora_alpha": "4"}, {"use_dora": "yes"}, {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"(": 2}}, {"rank_pattern": {"x" * 2000: 2}}, {"alpha_pattern": {"q": None}},
        {"target_modules": [3]}, {"base_model_name_or_path": 3},
    ],
)  # fmt: skip
def test_values_that_mean_nothing_are_damage(change: dict[str, Any], refuse: Callable[..., str]) -> None:
    refuse(CorruptFile, **change)


def test_a_pattern_that_would_take_for_ever_takes_no_time(refuse: Callable[..., str]) -> None:
    said = refuse(Mismatch, rank_pattern={"(a|a|[a-z_.0-9]+)+b": 3, "q_proj": 7})
    assert "rank 7" in said


def test_every_tensor_that_has_no_place_is_told_with_its_shapes(refuse: Callable[..., str]) -> None:
    other = Q.replace("layers.0", "layers.9")
    state = {
        f"{Q}.lora_A.weight": torch.ones(2, 8),
        f"{Q}.lora_B.weight": torch.ones(16, 2),
        f"{other}.lora_A.weight": torch.ones(2, 16),
        f"{other}.lora_B.weight": torch.ones(16, 2),
        "base_model.model.model.norm.weight": torch.ones(15),
        "base_model.model.model.nothing.weight": torch.ones(15),
    }
    said = refuse(Mismatch, state)
    assert "16 × 16, its factors 2 × 8 and 16 × 2, its rank 2" in said
    assert "model.layers.9.self_attn.q_proj is in the adapter only" in said
    assert "model.norm.weight is 16 in base, 15 in the adapter" in said
    assert "model.nothing.weight is in the adapter only" in said


@pytest.mark.parametrize(
    ("state", "config", "said"),
    [
        ({f"{Q}.lora_A.weight": torch.ones(2, 16)}, {}, "lacks its factor B"),
        ({**FACTORS, "x.lora_A.weight": torch.ones(2, 2)}, {}, "does not begin with base_model.model."),
        ({**FACTORS, f"{Q}.lora_C.weight": torch.ones(1)}, {}, "no part of an adapter"),
        ({**FACTORS, f"{Q}.lora_B.bias": torch.ones(16)}, {}, "no part of an adapter"),
        ({**FACTORS, f"{Q}.lora_A.default.weight": torch.ones(2, 16)}, {}, "its part A twice"),
        ({**FACTORS, f"{Q}.lora_magnitude_vector": torch.ones(16)}, {}, "use_dora is not set"),
        (FACTORS, {"use_dora": True}, "lacks its magnitudes"),
        (
            {**FACTORS, f"{Q}.lora_magnitude_vector": torch.ones(15)},
            {"use_dora": True},
            "15 magnitudes, not 16",
        ),
        (FACTORS, {"target_modules": ["k_proj"]}, "target_modules does not name it"),
        ({name: t.to(torch.int8) for name, t in FACTORS.items()}, {}, "is I8"),
        (FACTORS, {"r": 3}, "its rank 3"),
        (
            {name: tensor.reshape(*tensor.shape, 1, 1) for name, tensor in FACTORS.items()},
            {},
            "only matrices are adapted",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    state: dict[str, torch.Tensor], config: dict[str, Any], said: str, refuse: Callable[..., str]
) -> None:
    assert said in refuse(Mismatch, state, **config)


def test_an_adapted_head_of_a_tied_model_is_refused(refuse: Callable[..., str]) -> None:
    head = "base_model.model.lm_head.lora_"
    state = {f"{head}A.weight": torch.ones(2, 16), f"{head}B.weight": torch.ones(50, 2)}
    assert "whose head is its embedding" in refuse(NotACheckpoint, state, target_modules=["lm_head"])


def test_an_embedding_that_peft_would_tie_to_the_head_is_refused(refuse: Callable[..., str]) -> None:
    state = {**FACTORS, "base_model.model.model.embed_tokens.weight": torch.ones(50, 16)}
    said = refuse(NotACheckpoint, state, ensure_weight_tying=True, modules_to_save=["embed_tokens"])
    assert "whose head is its embedding" in said


def test_a_table_held_whole_of_a_base_tied_in_a_way_that_is_not_known_is_refused(tmp_path: Path) -> None:
    table = {"shared.weight": torch.ones(50, 16)}
    base = write_model(tmp_path / "base", table, tie_word_embeddings=True, vocab_size=50)
    (tmp_path / "adapter").mkdir()
    save_file(
        {"base_model.model.shared.weight": table["shared.weight"] * 2},
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(CONFIG))
    with (
        open_checkpoint(str(base)) as below,
        pytest.raises(NotACheckpoint, match=r"holds shared\.weight whole"),
    ):
        open_post(str(tmp_path / "adapter"), below)


def test_experts_that_the_base_has_as_one_tensor_are_refused_with_the_reason(tmp_path: Path) -> None:
    stacked = {"model.layers.0.mlp.experts.down_proj": torch.ones(2, 16, 16)}
    base = str(write_model(tmp_path / "base", cast(random_state(1)) | stacked))
    expert = f"{Q.removesuffix('self_attn.q_proj')}mlp.experts.0.down_proj"
    save_file(
        {name.replace(Q, expert): tensor for name, tensor in FACTORS.items()},
        tmp_path / "adapter_model.safetensors",
    )
    said = {**CONFIG, "target_modules": ["down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    with open_checkpoint(base) as below, pytest.raises(Mismatch, match="experts as one tensor"):
        open_post(str(tmp_path), below)


def test_an_adapter_without_weights_is_refused(tmp_path: Path) -> None:
    base = str(write_model(tmp_path / "base", cast(random_state(1))))
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with open_checkpoint(base) as below, pytest.raises(NotFound, match=r"adapter_model\.safetensors"):
        open_post(str(tmp_path), below)


class Hostile:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_a_pickle_that_needs_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = str(write_model(tmp_path / "base", cast(random_state(1))))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps({"x": Hostile()}))
    with open_checkpoint(base) as below, pytest.raises(CorruptFile, match="refused"):
        open_post(str(tmp_path / "adapter"), below)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(NotACheckpoint, match="with its base"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", SAFETENSORS_INDEX])
def test_a_folder_that_holds_a_model_and_an_adapter_is_neither(weights: str, tmp_path: Path) -> None:
    state = cast(random_state(1))
    model = str(write_model(tmp_path / "store" / "base", state))
    both = write_model(tmp_path / "store" / "both", state)
    if weights == SAFETENSORS_INDEX:
        (both / "model.safetensors").rename(both / "part.safetensors")
        (both / weights).write_text(json.dumps({"weight_map": dict.fromkeys(state, "part.safetensors")}))
    elif weights == "pytorch_model.bin":
        (both / "model.safetensors").unlink()
        torch.save(state, both / weights)
    save_file(FACTORS, both / "adapter_model.safetensors")
    (both / "adapter_config.json").write_text(json.dumps(CONFIG))
    for open_it in (open_checkpoint, inspect, lambda path: compute(model, path, str(tmp_path / "d"))):
        with pytest.raises(NotACheckpoint, match="and an adapter") as refused:
            open_it(str(both))
        assert type(refused.value) is NotACheckpoint
        assert weights in str(refused.value)
        assert "adapter_config.json" in str(refused.value.hint)
    found = {item.name: item for item in list_store(str(tmp_path / "store")).items}
    assert (found["both"].kind, found["both"].problem) == ("model", "holds a model and an adapter")
    assert found["base"].problem is None
    copy(str(both), str(tmp_path / "copied"))
    assert {each.name for each in both.iterdir()} == {
        each.name for each in (tmp_path / "copied").iterdir()
    }


def test_what_a_model_s_folder_keeps_of_an_adapter_without_weights_is_no_adapter(tmp_path: Path) -> None:
    state = cast(random_state(1))
    model = write_model(tmp_path, state)
    (model / "adapter_config.json").write_text(json.dumps(CONFIG))
    with open_checkpoint(str(model)) as opened:
        assert opened.tensors.keys() == state.keys()
