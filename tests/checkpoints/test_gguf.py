"""GGUF files as checkpoints: every tensor is what transformers' own GGUF loading makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.files import contents
from gguf import GGMLQuantizationType as Kind
from ggufs import GROUPS, HEADS, HIDDEN, TOKENS, write_gguf

from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.gguf.tensors import row_order
from pipeline.errors import CorruptFile, Mismatch, NotACheckpoint
from pipeline.tensors.dtypes import BY_NAME, TORCH_NAMES

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def values_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors, in their own formats."""
    kinds = {dtype: getattr(torch, name) for name, dtype in TORCH_NAMES.items()}
    found = {}
    for name, data in contents(checkpoint).items():
        entry = checkpoint.tensors[name].entry
        found[name] = torch.frombuffer(bytearray(data), dtype=kinds[entry.dtype]).reshape(entry.shape)
    return found


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """The same by transformers, in float32."""
    from transformers import AutoModelForCausalLM

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    state: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32
    ).state_dict()
    return state


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K in one file."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf")


def test_each_tensor_is_transformers_own_bit_for_bit(mixed: Path) -> None:
    expected = loaded(mixed)
    with open_checkpoint(str(mixed)) as model:
        found = values_of(model)
        assert {entry.entry.dtype.name for entry in model.tensors.values()} == {"F32", "F16", "BF16"}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].float().view(torch.int32), tensor.view(torch.int32)), name


def test_a_file_in_bfloat16_is_read_as_it_is(tmp_path: Path) -> None:
    with open_checkpoint(str(write_gguf(tmp_path / "m.gguf", Kind.BF16))) as model:
        assert model.derived == "GGUF BF16"
        assert model.tensors[Q_PROJ].entry.dtype == BY_NAME["BF16"]


@pytest.mark.parametrize(("start", "count"), [(0, 1), (HIDDEN - 1, 2), (700, 9000), (65_000, 536)])
def test_any_range_of_a_tensor_whose_rows_are_moved_can_be_read(
    mixed: Path, start: int, count: int
) -> None:
    with open_checkpoint(str(mixed)) as model:
        whole = values_of(model)[Q_PROJ].reshape(-1)
        source = model.tensors[Q_PROJ]
        found = np.empty(count, "<f4")
        place = source.entry.offset + 4 * start
        model.readers[source.file].read_into(place, memoryview(found).cast("B"))
        assert np.array_equal(found, whole[start : start + count].numpy())


def test_the_config_is_what_transformers_reads_from_the_file(mixed: Path) -> None:
    with open_checkpoint(str(mixed)) as model:
        config = dict(model.config or {})
        assert model.vocab_size == TOKENS
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["num_attention_heads"]) == (HIDDEN, HEADS)
    assert config["num_key_value_heads"] == GROUPS
    assert (config["bos_token_id"], config["tie_word_embeddings"]) == (3, False)


def test_a_config_and_a_tokenizer_beside_the_file_are_the_model_s(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 7}))
    (tmp_path / "tokenizer.json").write_text("{}")
    for location in (path, tmp_path):
        with open_checkpoint(str(location)) as model:
            assert model.vocab_size == 7
            assert model.derived == "GGUF Q8_0, dequantised"
            assert model.read_companions() == {"tokenizer.json": b"{}"}


def test_a_model_without_an_output_matrix_has_tied_embeddings(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, leave_out=["output.weight"])
    with open_checkpoint(str(path)) as model:
        assert "lm_head.weight" not in model.tensors
        assert (model.config or {})["tie_word_embeddings"] is True


def test_several_files_and_no_index_are_not_guessed_at(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", Kind.Q8_0)
    write_gguf(tmp_path / "b.gguf", Kind.Q8_0)
    with pytest.raises(NotACheckpoint, match=r"2 weight files .*a.gguf, b.gguf .*name one"):
        open_checkpoint(str(tmp_path))


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, architecture="plamo")
    with pytest.raises(NotACheckpoint, match="'plamo'"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("facts", [{"llama.rope.scaling.type": "yarn"}, {}], ids=["yarn", "Llama 3.1"])
def test_scaled_rope_needs_the_model_s_own_config(tmp_path: Path, facts: dict[str, str]) -> None:
    extra: dict[str, tuple[int, ...]] = {} if facts else {"rope_freqs.weight": (32,)}
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, facts=facts, extra=extra)
    with pytest.raises(NotACheckpoint, match=r"config\.json beside it"):
        open_checkpoint(str(path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with open_checkpoint(str(path)) as model:
        assert len(model.tensors) == 21


def test_a_tensor_that_has_no_place_in_the_model_is_refused_by_name(tmp_path: Path) -> None:
    extra = {"blk.0.ffn_gate_exps.weight": (4, 32, 32)}
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, extra=extra)
    with pytest.raises(Mismatch, match=r"blk\.0\.ffn_gate_exps\.weight has no place"):
        open_checkpoint(str(path))


def test_the_order_of_rows_is_found_and_other_changes_are_not_mistaken_for_one() -> None:
    turned = row_order(lambda matrix: matrix[::-1], 5)
    assert turned is not None
    assert turned.tolist() == [4, 3, 2, 1, 0]
    assert row_order(lambda matrix: matrix, 5) is None
    for change in (lambda m: m.T, lambda m: m - 1, lambda m: np.log(-m), lambda m: m[:, ::-1]):
        with pytest.raises(ValueError, match="its"):
            row_order(change, 5)


def test_a_file_that_is_cut_off_is_refused(mixed: Path, tmp_path: Path) -> None:
    data = mixed.read_bytes()
    for end in (0, 3, 20, 200, len(data) // 2):
        (tmp_path / "cut.gguf").write_bytes(data[:end])
        with pytest.raises(CorruptFile):
            open_checkpoint(str(tmp_path / "cut.gguf"))
