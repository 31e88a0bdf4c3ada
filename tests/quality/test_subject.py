"""A model opened for measurement: as transformers would load it, from any store, or a clear refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from models import read_model, write_model
from quality.text_models import FAMILY, bpe, plain_model, save_model

from pipeline.errors import CorruptFile, Mismatch, NotACheckpoint, UsageError
from pipeline.quality.subject import load_subject


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random model with an untied head."""
    save_model(tmp_path / "model", bpe(300), tie_word_embeddings=False)
    return tmp_path / "model"


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    left, right = ours.state_dict(), theirs.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_folder_is_loaded_as_transformers_loads_it():
    subject = load_subject(str(FAMILY / "post-v2"), dtype="float32", device="cpu")
    assert same_weights(subject.model, plain_model("post-v2"))
    assert subject.model.get_output_embeddings().weight is subject.model.get_input_embeddings().weight
    assert subject.model.generation_config.eos_token_id == 1023
    assert not subject.model.training
    assert subject.tokenizer.chat_template
    assert (subject.context, subject.dtype, subject.prefix) == (128, "float32", 0)


def test_weights_keep_their_format_unless_another_is_asked_for():
    subject = load_subject(str(FAMILY / "base-v1"))
    assert {each.dtype for each in subject.model.parameters()} == {torch.bfloat16}
    assert subject.nbytes == sum(each.nbytes for each in subject.model.parameters())


def test_a_container_s_model_is_the_same_and_leaves_no_file(cloud: Cloud, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cloud.upload(FAMILY / "base-v2", "models/b")
    subject = load_subject(f"{cloud.location}/models/b", dtype="float32")
    assert same_weights(subject.model, plain_model("base-v2"))
    assert subject.location == f"{cloud.location}/models/b"
    assert not list(tmp_path.iterdir())


def test_pickled_weights_are_read_without_running_them(model):
    state = read_model(model)
    (model / "model.safetensors").unlink()
    torch.save(state, model / "pytorch_model.bin")
    loaded = load_subject(str(model)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_every_tensor_that_does_not_fit_is_named(model):
    state = read_model(model)
    state["extra.weight"] = torch.zeros(3)
    del state["model.norm.weight"]
    state["lm_head.weight"] = torch.zeros(7, 32)
    write_model(model, state, **json.loads((model / "config.json").read_text()))
    with pytest.raises(Mismatch) as caught:
        load_subject(str(model))
    assert [problem.split(" ", 1) for problem in caught.value.problems] == [
        ["model.norm.weight", "is missing"],
        ["extra.weight", "has no place in the architecture"],
        ["lm_head.weight", "has shape 7 × 32, and 300 × 32 by its config"],
    ]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(model, value):
    state = read_model(model)
    state["model.norm.weight"][3] = value
    write_model(model, state, **json.loads((model / "config.json").read_text()))
    with pytest.raises(CorruptFile, match=r"1 tensors hold .* 'model.norm.weight' first"):
        load_subject(str(model))


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path):
    save_model(tmp_path, bpe(300), rows=290)
    with pytest.raises(Mismatch, match="token 299 has no row in the embedding of 290"):
        load_subject(str(tmp_path))


def test_a_model_without_a_tokenizer_is_refused(model):
    for path in model.glob("*token*"):
        path.unlink()
    with pytest.raises(NotACheckpoint, match="no tokenizer that transformers can read"):
        load_subject(str(model))


def test_code_that_a_checkpoint_brings_is_neither_fetched_nor_run(model, tmp_path):
    ran = tmp_path / "ran"
    (model / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass M: pass\n")
    change_config(model, auto_map={"AutoModelForCausalLM": "own.M"}, _attn_implementation="org/kernel")
    assert load_subject(str(model)).model.config.model_type == "llama"
    change_config(model, model_type="own")
    with pytest.raises(NotACheckpoint, match="'own' is none that transformers knows"):
        load_subject(str(model))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("fields", "error", "what"),
    [
        ({"num_hidden_layers": 10**9}, CorruptFile, "num_hidden_layers = 1000000000, but it has"),
        ({"num_attention_heads": "two"}, CorruptFile, "config.json makes no sense"),
        ({"model_type": "clip"}, NotACheckpoint, "does not continue text"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(model, fields, error, what):
    change_config(model, **fields)
    with pytest.raises(error, match=what):
        load_subject(str(model))


def test_weights_alone_and_options_that_mean_nothing_are_refused(model, tmp_path):
    bare = shutil.copy(model / "model.safetensors", tmp_path / "bare.safetensors")
    with pytest.raises(NotACheckpoint, match=r"no config\.json"):
        load_subject(str(bare))
    with pytest.raises(UsageError, match="'int8' is not a dtype"):
        load_subject(str(model), dtype="int8")
    with pytest.raises(UsageError, match="'tpu' is not a device"):
        load_subject(str(model), device="tpu")


def test_models_with_the_same_tokenizer_share_it():
    base = load_subject(str(FAMILY / "base-v1"))
    moved = load_subject(str(FAMILY / "base-v2"), beside=[base])
    assert moved.tokenizer is base.tokenizer
    post = load_subject(str(FAMILY / "post-v1"), beside=[base])
    assert len(post.tokenizer) > len(base.tokenizer)
