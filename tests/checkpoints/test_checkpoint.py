"""Opening a safetensors checkpoint: whatever its form, the same tensors; whatever is wrong, an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints.files import contents, entry, pack, write_index
from models import State, cast, random_state, write_model
from safetensors.torch import save_file

from pipeline import open_checkpoint
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.errors import (
    CorruptFile,
    NotACheckpoint,
    NotFound,
    PipelineError,
    QuantisedCheckpoint,
    UsageError,
)

STATE = cast(random_state(1))


def raw(state: State) -> dict[str, bytes]:
    """Each tensor's bytes, by torch."""
    return {n: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in state.items()}


def shard(folder: Path, state: State = STATE, pieces: int = 3) -> Path:
    """`state` spread over several files with an index."""
    folder.mkdir()
    names = list(state)
    places = {}
    for number in range(pieces):
        file = f"model-{number + 1:05d}-of-{pieces:05d}.safetensors"
        save_file({name: state[name] for name in names[number::pieces]}, folder / file)
        places |= dict.fromkeys(names[number::pieces], file)
    write_index(folder, places)
    (folder / "config.json").write_text('{"vocab_size": 50}')
    return folder


def check_holds(checkpoint: Checkpoint, state: State) -> None:
    """Names, dtypes, shapes and bytes must be those of `state`."""
    assert contents(checkpoint) == raw(state)
    for name, source in checkpoint.tensors.items():
        assert source.entry.shape == tuple(state[name].shape)
        assert (
            source.entry.dtype.name == {torch.bfloat16: "BF16", torch.float32: "F32"}[state[name].dtype]
        )


# -- forms --------------------------------------------------------------------------------------


def test_a_folder_with_one_safetensors_file_is_a_checkpoint(tmp_path):
    with open_checkpoint(str(write_model(tmp_path / "m", STATE, rope_theta=5))) as found:
        check_holds(found, STATE)
        assert (found.config["rope_theta"], found.vocab_size, found.revision) == (5, 50, None)
        assert found.nbytes == sum(tensor.nbytes for tensor in STATE.values())


def test_a_folder_with_shards_and_an_index_is_the_same_checkpoint(tmp_path):
    with open_checkpoint(str(shard(tmp_path / "m"))) as found:
        check_holds(found, STATE)
        assert len(found.readers) == 3


def test_a_bare_file_is_a_checkpoint_without_config_and_companions(tmp_path):
    folder = write_model(tmp_path / "m", STATE)
    (folder / "tokenizer.json").write_text("{}")
    with open_checkpoint(str(folder / "model.safetensors")) as found:
        check_holds(found, STATE)
        assert (found.config, found.vocab_size, found.companions) == (None, None, {})


def test_a_folders_only_safetensors_file_may_have_any_name(tmp_path):
    save_file(STATE, tmp_path / "weights.safetensors")
    with open_checkpoint(str(tmp_path)) as found:
        check_holds(found, STATE)


def test_where_a_single_file_and_an_index_stand_transformers_choice_is_taken(tmp_path):
    """transformers loads model.safetensors and does not look at the index: nor may we."""
    folder = shard(tmp_path / "m", cast(random_state(2)))
    save_file(STATE, folder / "model.safetensors")
    with open_checkpoint(str(folder)) as found:
        check_holds(found, STATE)


def test_safetensors_are_taken_before_pickles(tmp_path):
    folder = write_model(tmp_path / "m", STATE)
    torch.save({"other": torch.ones(1)}, folder / "pytorch_model.bin")
    with open_checkpoint(str(folder)) as found:
        check_holds(found, STATE)


def test_scalars_and_empty_tensors_are_tensors(tmp_path):
    state = {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 7), "one": torch.ones(1)}
    with open_checkpoint(str(write_model(tmp_path / "m", state))) as found:
        check_holds(found, state)


def test_companions_are_those_files_that_turn_text_into_ids_and_back(tmp_path):
    folder = write_model(tmp_path / "m", STATE)
    wanted = {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    for name in (*wanted, "README.md", "modeling_evil.py", "training_args.bin", "optimizer.pt"):
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("t")
    with open_checkpoint(str(folder)) as found:
        assert set(found.companions) == wanted | {"additional_chat_templates/tools.jinja"}


# -- what is wrong ------------------------------------------------------------------------------


def test_a_missing_shard_is_named(tmp_path):
    folder = shard(tmp_path / "m")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(NotFound, match="model-00002-of-00003"):
        open_checkpoint(str(folder))


def test_a_tensor_that_no_shard_has_is_named(tmp_path):
    folder = shard(tmp_path / "m")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lost.weight"] = "model-00001-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptFile, match=r"lost\.weight"):
        open_checkpoint(str(folder))


def test_a_tensor_that_the_index_gives_to_another_file_is_not_found_there(tmp_path):
    folder = shard(tmp_path / "m")
    write_index(folder, dict.fromkeys(STATE, "model-00001-of-00003.safetensors"))
    with pytest.raises(CorruptFile, match="none of its files"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", ""]
)
def test_an_index_must_not_name_files_outside_its_folder(tmp_path, file):
    save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "m"
    folder.mkdir()
    write_index(folder, {"w": file})
    with pytest.raises((UsageError, CorruptFile), match="is not a name inside"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "null", '{"weight_map": []}', '{"weight_map": {"w": 1}}', "[" * 100_000, "\xff"],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_that_is_none_is_refused(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptFile, match=name):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "not json", "[]", "3", "[" * 100_000], ids=lambda text: repr(text[:9])
)
def test_a_config_that_is_none_is_refused(tmp_path, text):
    folder = write_model(tmp_path / "m", STATE)
    (folder / "config.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"config\.json"):
        open_checkpoint(str(folder))


def test_several_weight_files_without_an_index_are_not_guessed_at(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file(STATE, tmp_path / name)
    with pytest.raises(NotACheckpoint, match=r"a\.safetensors, b\.safetensors.*index"):
        open_checkpoint(str(tmp_path))


def test_a_lora_adapter_is_refused_as_such(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"base_model.q.lora_A.weight": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(NotACheckpoint, match="LoRA adapter"):
        open_checkpoint(str(tmp_path))


def test_a_folder_without_weights_is_no_checkpoint(tmp_path):
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(NotACheckpoint, match="no weights"):
        open_checkpoint(str(tmp_path))


def test_a_place_that_is_not_there_is_no_checkpoint(tmp_path):
    with pytest.raises((NotACheckpoint, NotFound), match="no such"):
        open_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(NotFound, match="no such file"):
        open_checkpoint(str(tmp_path / "nowhere.safetensors"))


def test_a_file_without_tensors_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(pack({"__metadata__": {"format": "pt"}}))
    with pytest.raises(NotACheckpoint, match="no tensors"):
        open_checkpoint(str(tmp_path))


def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path):
    path = write_model(tmp_path / "m", STATE) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match=r"model\.safetensors"):
        open_checkpoint(str(tmp_path / "m"))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", None])
def test_a_checkpoint_that_says_it_is_quantised_is_refused_by_the_methods_name(tmp_path, method):
    folder = write_model(tmp_path / "m", STATE, quantization_config={"quant_method": method})
    with pytest.raises(QuantisedCheckpoint, match=method or "unnamed"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_a_checkpoint_with_low_bit_floats_is_refused_by_their_name(tmp_path, dtype):
    header = {"proj.weight": entry(0, 4, dtype=dtype, shape=[4])}
    (tmp_path / "model.safetensors").write_bytes(pack(header, bytes(4)))
    with pytest.raises(QuantisedCheckpoint, match=rf"proj\.weight.*{dtype}"):
        open_checkpoint(str(tmp_path))


def test_where_two_files_have_a_tensor_the_index_decides(tmp_path):

    folder = shard(tmp_path / "m")
    save_file(STATE, folder / "model-00001-of-00003.safetensors")  # has them all
    with open_checkpoint(str(folder)) as found:
        check_holds(found, STATE)


@pytest.mark.parametrize("location", ["", "no such thing!", "ftp://x/y", "az://UPPER/x"])
def test_what_cannot_be_a_location_is_a_usage_error(location):
    with pytest.raises(PipelineError) as error:
        open_checkpoint(location)
    assert error.value.exit_code == 2
