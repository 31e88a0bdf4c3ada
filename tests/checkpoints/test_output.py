"""A model folder to be written: shards of bounded size, an index, and config.json last."""

from __future__ import annotations

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import cast, random_state
from safetensors import safe_open

from pipeline import open_checkpoint
from pipeline.checkpoints.header import Tensor
from pipeline.checkpoints.output import build_index, plan_shards, publishing_order
from pipeline.tensors.dtypes import BF16, F32, F64, U8
from pipeline.tensors.fingerprint import digest_bytes

TENSORS = st.lists(
    st.tuples(st.sampled_from([U8, BF16, F32, F64]), st.integers(0, 300)), min_size=1, max_size=20
).map(lambda found: [Tensor(f"t{i}", dtype, (size,)) for i, (dtype, size) in enumerate(found)])


@settings(max_examples=60)
@given(TENSORS, st.integers(1, 3000))
def test_every_tensor_is_in_one_shard_of_at_most_the_size_or_alone(tensors, shard_bytes):
    shards = plan_shards(tensors, shard_bytes)
    names = [tensor.name for shard in shards for tensor in shard.tensors]
    assert sorted(names) == sorted(tensor.name for tensor in tensors)
    for shard in shards:
        filled = [tensor for tensor in shard.tensors if tensor.nbytes]
        assert sum(tensor.nbytes for tensor in filled) <= shard_bytes or len(filled) == 1


@settings(max_examples=60)
@given(TENSORS, st.integers(1, 3000))
def test_tensors_follow_each_other_behind_the_header_each_aligned(tensors, shard_bytes):
    for shard in plan_shards(tensors, shard_bytes):
        at = len(shard.header)
        for tensor, offset in zip(shard.tensors, shard.offsets, strict=True):
            assert offset == at
            assert offset % tensor.dtype.itemsize == 0
            at += tensor.nbytes
        assert shard.nbytes == at


@settings(max_examples=60)
@given(TENSORS, st.integers(1, 3000))
def test_the_index_says_where_each_tensor_is_and_how_large_all_are(tensors, shard_bytes):
    shards = plan_shards(tensors, shard_bytes)
    index = build_index(shards)
    assert (index is None) == (len(shards) == 1)
    if index is not None:
        fields = json.loads(index)
        assert fields["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
        assert fields["weight_map"] == {t.name: shard.name for shard in shards for t in shard.tensors}


def test_shards_are_named_as_transformers_names_them():
    tensors = [Tensor(f"t{i}", U8, (10,)) for i in range(3)]
    assert [shard.name for shard in plan_shards(tensors, 100)] == ["model.safetensors"]
    assert [shard.name for shard in plan_shards(tensors, 10)] == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]


def test_what_is_laid_out_is_read_by_the_safetensors_library_and_by_us(tmp_path):
    state = cast(random_state(1)) | {
        "wide": torch.ones(3, dtype=torch.float64),
        "scalar": torch.tensor(2.0),
    }
    dtypes = {torch.bfloat16: BF16, torch.float64: F64, torch.float32: F32}
    tensors = [Tensor(name, dtypes[t.dtype], tuple(t.shape)) for name, t in state.items()]
    shards = plan_shards(tensors, 2000)
    assert len(shards) > 2
    for shard in shards:
        raws = (state[t.name].reshape(-1).view(torch.uint8).numpy().tobytes() for t in shard.tensors)
        (tmp_path / shard.name).write_bytes(shard.header + b"".join(raws))
        with safe_open(tmp_path / shard.name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert all(torch.equal(file.get_tensor(name), state[name]) for name in file.keys())  # noqa: SIM118
    index = build_index(shards)
    assert index is not None
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with open_checkpoint(str(tmp_path)) as found:
        assert set(found.tensors) == set(state)


def test_the_same_tensors_give_the_same_bytes():
    tensors = [Tensor(f"t{i}", F32, (i,)) for i in range(50)]
    one, two = (digest_bytes(b"".join(s.header for s in plan_shards(tensors, 400))) for _ in range(2))
    assert one == two


def test_config_json_is_published_last_and_the_index_before_it():
    names = [
        "config.json",
        "README.md",
        "model.safetensors.index.json",
        "model-00001-of-00001.safetensors",
    ]
    order = publishing_order(names)
    assert sorted(order) == sorted(names)
    assert order[-2:] == ["model.safetensors.index.json", "config.json"]
