"""A delta file: plain for everyone, exact for us, the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from deltas.surgery import PREFIX, take_apart
from models import (
    State,
    cast,
    formula,
    near,
    random_state,
    read_model,
    same_bits,
    write_model,
)
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline import apply, compute, open_delta
from pipeline.deltas.format import CODECS
from pipeline.errors import CorruptFile, NotFound, UsageError
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def check_restores(folder: Path, base: State, post: State, **options: object) -> None:
    """compute, in either form, and apply onto the same base must give post back, bit for bit."""
    write_model(folder / "base", base)
    write_model(folder / "post", post)
    for codec in CODECS:
        delta, out = str(folder / f"{codec}.safetensors"), folder / f"out-{codec}"
        compute(str(folder / "base"), str(folder / "post"), delta, codec=codec, workers=2, **options)
        report = apply(str(folder / "base"), [delta], str(out), workers=2)
        assert report.case == SAME_BASE
        found = read_model(out)
        assert found.keys() == post.keys()
        assert [name for name in post if not same_bits(found[name], post[name])] == []


# -- plain for everyone -------------------------------------------------------------------------


def test_any_safetensors_reader_gets_deltas_that_add_up_under_posts_names(plain):
    found = {n: t for n, t in load_file(plain.delta).items() if not n.startswith(PREFIX)}
    floats = {n for n, t in plain.post_state.items() if t.is_floating_point()}
    assert set(found) == floats
    for name, delta in found.items():
        post, base = plain.post_state[name], plain.base_state[name]
        exact = post.float()
        exact[: len(base)] -= base.float()
        assert delta.dtype == torch.bfloat16
        assert torch.equal(delta.nan_to_num(7), exact.bfloat16().nan_to_num(7))


def test_what_only_we_understand_is_bytes_under_a_reserved_prefix(made):
    with safe_open(made.delta, "np") as file:
        names = {n.removeprefix(PREFIX) for n in file.keys() if n.startswith(PREFIX)}  # noqa: SIM118
        assert file.metadata().keys() == {
            "format", "paramdelta.version", "paramdelta.manifest", "paramdelta.header",
        }  # fmt: skip
    wanted = {"none": {"corrections", "carried.steps"}, "rans": {"packed"}}[made.codec]
    wanted |= {"index", "digests", "manifest"}
    assert names == wanted | {"file.tokenizer.json", "file.generation_config.json"}


def test_a_packed_delta_is_smaller_and_says_the_same(plain, packed):
    assert packed.delta.stat().st_size < 0.9 * plain.delta.stat().st_size
    said, repeated = (take_apart(each.delta).manifest for each in (plain, packed))
    assert (said.pop("codec"), repeated.pop("codec")) == ("none", "rans")
    assert said == repeated
    with open_delta(str(plain.delta)) as one, open_delta(str(packed.delta)) as other:
        assert one.manifest.fingerprint == other.manifest.fingerprint


def test_the_header_is_sealed_by_the_digest_of_itself_with_zeros_in_its_place(made):
    data = made.delta.read_bytes()
    head = data[: 8 + int.from_bytes(data[:8], "little")]
    digest = take_apart(made.delta).metadata["paramdelta.header"]
    assert blake3(head.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_companions_and_carried_tensors_are_posts_own_bytes(plain):
    tensors = take_apart(plain.delta).tensors
    for name in ("tokenizer.json", "generation_config.json"):
        assert tensors[PREFIX + "file." + name][2] == (plain.post / name).read_bytes()
    steps = np.frombuffer(tensors[PREFIX + "carried.steps"][2], np.int64)
    assert steps.tolist() == list(range(1, 10))


def test_the_manifest_names_both_models_by_their_fingerprints(made):
    def fingerprint(folder: Path, state: State) -> str:
        text = b"paramdelta checkpoint 1\n"
        for name in sorted(state):
            tensor = state[name]
            data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            kind = {torch.bfloat16: "BF16", torch.int64: "I64"}[tensor.dtype]
            shape = ",".join(map(str, tensor.shape))
            head = f"paramdelta tensor 1\n{kind}\n{shape}\n".encode()
            text += name.encode() + b"\0" + blake3(head + blake3(data).digest()).digest()
        return blake3(text).hexdigest()

    manifest = take_apart(made.delta).manifest
    assert manifest["base"]["fingerprint"] == fingerprint(made.base, made.base_state)
    assert manifest["post"]["fingerprint"] == fingerprint(made.post, made.post_state)


def test_opening_reads_what_the_file_says_of_itself(made):
    with open_delta(str(made.delta)) as delta:
        assert set(delta.tensors) == set(made.post_state)
        assert delta.vocab_size == 53
        assert set(delta.companions) == {"tokenizer.json", "generation_config.json"}
        assert delta.read_companion("generation_config.json") == b'{"eos_token_id": 7}'
        record = delta.tensors["model.embed_tokens.weight"].record
        assert (record.shape, record.base_shape) == ((53, 16), (50, 16))
        assert delta.nbytes == made.delta.stat().st_size


# -- the same bytes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of several chunks a tensor, with plenty of corrections."""
    folder = tmp_path_factory.mktemp("pair")
    base = {
        f"w{i}": torch.randn(700_000 + i, generator=torch.Generator().manual_seed(i)) for i in range(3)
    }
    write_model(folder / "base", cast(base))
    write_model(folder / "post", cast(near(base, 9, scale=0.5)))
    return folder


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_has_the_same_bytes_whatever_the_workers_and_the_memory(pair, tmp_path, codec):
    base, post, found = str(pair / "base"), str(pair / "post"), set()
    for number, (workers, memory) in enumerate([(1, "1GiB"), (2, "64MiB"), (16, "1GiB"), (1, "56MiB")]):
        path = tmp_path / f"{number}.safetensors"
        compute(base, post, str(path), codec=codec, workers=workers, memory=memory)
        found.add(blake3(path.read_bytes()).hexdigest())
    assert len(found) == 1


def test_how_the_weights_are_sharded_does_not_show_in_the_fingerprints(made, tmp_path):
    from safetensors.torch import save_file

    shuffled = {name: made.post_state[name] for name in sorted(made.post_state, reverse=True)}
    (tmp_path / "config.json").write_text((made.post / "config.json").read_text())
    torch.save(shuffled, tmp_path / "pytorch_model.bin")
    report = compute(str(made.base), str(tmp_path), str(tmp_path / "d.safetensors"))
    with open_delta(str(made.delta)) as delta:
        assert report.post_fingerprint == str(delta.manifest.post.fingerprint)
    other = tmp_path / "other"
    other.mkdir()
    save_file(made.base_state, other / "model.safetensors")
    (other / "config.json").write_text((made.base / "config.json").read_text())
    report = compute(str(other), str(tmp_path), str(tmp_path / "e.safetensors"))
    with open_delta(str(made.delta)) as delta:
        assert report.base_fingerprint == str(delta.manifest.base.fingerprint)


# -- exact for us -------------------------------------------------------------------------------


@pytest.mark.parametrize("post", FLOATS, ids=str)
@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_post_is_restored_bit_for_bit_on_its_own_base(tmp_path, base, post):
    state = random_state(1)
    check_restores(tmp_path, cast(state, base), cast(near(state, 2), post))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_post_is_restored_whatever_the_storage_format(tmp_path, dtype):
    state = random_state(1)
    check_restores(tmp_path, cast(state), cast(near(state, 2), torch.float32), dtype=dtype)


def test_a_model_with_everything_odd_is_restored(tmp_path):
    nans = torch.tensor([0x7FC1, 0x7F81, -63, 0x7FC0, -64, 1], dtype=torch.int16).repeat(50)
    base = {
        "nan": nans.view(torch.bfloat16), "minus": torch.full((9,), -0.0), "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3), "mask": torch.tensor([True, False]), "ids": torch.arange(5),
        "wide": torch.tensor([1e300, -1e-300, torch.inf], dtype=torch.float64),
    }  # fmt: skip
    post = {**base, "scalar": torch.tensor(-torch.inf), "ids": torch.arange(5) * 2}
    check_restores(tmp_path / "changed", base, post)
    check_restores(tmp_path / "same", base, dict(base))


def test_a_config_that_says_infinity_goes_along(tmp_path):
    """As those of Mamba-2 do: no JSON by the letter, but what Python writes and reads."""
    state = cast(random_state(1))
    limits = {"time_step_limit": [0.0, float("inf")]}
    write_model(tmp_path / "base", state)
    write_model(tmp_path / "post", cast(near(random_state(1), 2)), **limits)
    delta = str(tmp_path / "d.safetensors")
    compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    apply(str(tmp_path / "base"), [delta], str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["time_step_limit"] == limits["time_step_limit"]


def test_on_another_base_the_result_is_the_formula_rounded_once(made, tmp_path):
    other = cast(near(random_state(1), 7)) | {"steps": torch.arange(9) + 5}
    write_model(tmp_path / "other", other)
    report = apply(str(tmp_path / "other"), [str(made.delta)], str(tmp_path / "out"), scale=0.5)
    assert report.case == ANOTHER_BASE
    found = read_model(tmp_path / "out")
    for name in set(other) - {"steps"}:
        wanted = formula(other[name], (0.5, made.post_state[name], made.base_state[name]))
        rows = len(made.base_state[name])  # those behind them are whole, at any scale
        wanted[rows:] = made.post_state[name][rows:]
        assert torch.equal(found[name].nan_to_num(7), wanted.nan_to_num(7)), name
    assert torch.equal(found["steps"], made.post_state["steps"])
    assert report.carried == ("steps",)


# -- not a delta --------------------------------------------------------------------------------


def test_a_model_is_not_a_delta_and_is_called_that(made):
    with pytest.raises(UsageError, match="not a delta"):
        open_delta(str(made.base / "model.safetensors"))


def test_what_is_no_safetensors_file_is_not_a_delta(tmp_path):
    path = tmp_path / "x.safetensors"
    for text in (b"", b"hello", b"{}" * 100):
        path.write_bytes(text)
        with pytest.raises(CorruptFile, match=r"x\.safetensors"):
            open_delta(str(path))
    with pytest.raises(NotFound):
        open_delta(str(tmp_path / "missing.safetensors"))
