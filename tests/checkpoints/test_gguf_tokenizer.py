"""A GGUF file alone: the tokenizer of its header goes with it, and all its tensors must be there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind
from ggufs import Tokenizer, write_gguf
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pipeline import compute, inspect
from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.checkpoints.gguf.tokenizer import TOKENIZERS
from pipeline.deltas.delta import open_delta
from pipeline.errors import Mismatch

TEXTS = ("the cat and the hat", "  and<end>the<think>then", "sand", "<end>", "")
GPT2 = {"tokenizer.ggml.pre": "gpt-2"}


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a tokenizer of its own, and nothing beside it."""
    place = tmp_path_factory.mktemp("gguf")
    return write_gguf(place / "m.gguf", Kind.Q8_0, tokenizer=Tokenizer(), facts=GPT2)


def reference() -> Backend:
    """The tokenizer that was written into the file, by the tokenizers package alone."""
    said = Tokenizer()
    vocabulary = {token: number for number, token in enumerate(said.tokens)}
    backend = Backend(models.BPE(vocabulary, list(said.merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", normalized=False)])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return backend


def test_its_tokenizer_gives_the_ids_of_the_one_that_was_written(lone: Path) -> None:
    with open_checkpoint(str(lone)) as model:
        found = model.read_companions()
        assert model.derived == "GGUF Q8_0, dequantised, tokenizer from its header"
    ours, theirs = Backend.from_str(found["tokenizer.json"].decode()), reference()
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids, text
        assert ours.decode(ours.encode(text).ids) == theirs.decode(theirs.encode(text).ids)
    config = json.loads(found["tokenizer_config.json"])
    assert config["eos_token"] == "<end>"
    assert "header.gguf" not in found["tokenizer_config.json"].decode()
    assert found["chat_template.jinja"].decode() == Tokenizer.template


def test_a_delta_of_it_carries_its_tokenizer_and_says_where_it_is_from(
    lone: Path, tmp_path: Path
) -> None:
    post = write_gguf(tmp_path / "post.gguf", Kind.BF16, seed=2, tokenizer=Tokenizer(), facts=GPT2)
    report = compute(str(lone), str(post), str(tmp_path / "d.safetensors"))
    assert report.derived[1] == "post: GGUF BF16, tokenizer from its header"
    with open_delta(str(tmp_path / "d.safetensors")) as delta, open_checkpoint(str(post)) as model:
        assert delta.read_companions() == model.read_companions()
    assert "tokenizer.json" in inspect(str(tmp_path / "d.safetensors")).facts["companions"]


def test_a_way_of_splitting_that_is_only_named_is_told(tmp_path: Path) -> None:
    facts = {"tokenizer.ggml.pre": "of-tomorrow"}
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, tokenizer=Tokenizer(), facts=facts)
    with open_checkpoint(str(path)) as model:
        assert str(model.derived).endswith("its pre-tokenizer 'of-tomorrow' taken for GPT-2's")


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_a_tokenizer_beside_the_file_is_the_model_s(name: str, lone: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to(lone)
    (tmp_path / name).write_bytes(b"{}")
    with open_checkpoint(str(tmp_path / "m.gguf")) as model:
        assert model.read_companions() == {name: b"{}"}
        assert model.derived == "GGUF Q8_0, dequantised"


def test_a_template_beside_the_file_takes_the_header_s_place(lone: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to(lone)
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}")
    with open_checkpoint(str(tmp_path / "m.gguf")) as model:
        found = model.read_companions()
    assert found["chat_template.jinja"] == b"{{ messages }}"
    assert "tokenizer.json" in found


@pytest.mark.parametrize(
    "said",
    [None, Tokenizer(merges=(("x", "nope"),))],
    ids=["neither merges nor scores", "merges of no token"],
)
def test_a_header_that_makes_no_tokenizer_leaves_the_model_without(
    said: Tokenizer | None, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, tokenizer=said)
    with open_checkpoint(str(path)) as model:
        assert not model.companions
        assert model.derived == "GGUF Q8_0, dequantised"


def test_tensors_that_its_architecture_needs_are_missed_by_name(lone: Path, tmp_path: Path) -> None:
    lost = ["blk.0.attn_q.weight", "blk.1.ffn_norm.weight", "output_norm.weight"]
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, leave_out=[*lost, "output.weight"])
    with pytest.raises(Mismatch) as caught:
        open_checkpoint(str(path))
    assert all(f"{name} is missing" in str(caught.value) for name in lost)
    assert "output.weight" not in str(caught.value)  # it is tied


def test_a_head_that_the_config_beside_the_file_does_not_tie_is_missed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", Kind.Q8_0, leave_out=["output.weight"])
    (tmp_path / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    with pytest.raises(Mismatch, match=r"output\.weight is missing"):
        open_checkpoint(str(path))
