"""PyTorch pickles: the values that torch would load, and no code of theirs is ever run."""

from __future__ import annotations

import os
import signal
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from checkpoints.files import contents, write_index
from models import State, cast, random_state

from pipeline import open_checkpoint
from pipeline.errors import CorruptFile, NotACheckpoint, PipelineError

STATE = cast(random_state(1, layers=1))


def raw(tensor: torch.Tensor) -> bytes:
    whole = tensor.detach().resolve_neg().resolve_conj().contiguous()
    return whole.reshape(-1).view(torch.uint8).numpy().tobytes()


def check_holds(location: Path, state: State) -> None:
    """The checkpoint must have the names, shapes and bytes of `state`."""
    with open_checkpoint(str(location)) as found:
        assert contents(found) == {name: raw(tensor) for name, tensor in state.items()}
        shapes = {name: source.entry.shape for name, source in found.tensors.items()}
        assert shapes == {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_is_a_checkpoint_in_a_folder_and_alone(tmp_path, name, zipped):
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    check_holds(tmp_path, STATE)
    check_holds(tmp_path / name, STATE)


def test_pickles_may_be_sharded_by_an_index(tmp_path):
    names = list(STATE)
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for number, file in enumerate(files):
        torch.save({name: STATE[name] for name in names[number::2]}, tmp_path / file)
    places = {name: files[i % 2] for i, name in enumerate(names)}
    write_index(tmp_path, places, "pytorch_model.bin.index.json")
    check_holds(tmp_path, STATE)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_the_state_dict_of_a_training_checkpoint_is_found(tmp_path, wrapper):
    torch.save({"step": 7, wrapper: STATE, "optimizer": {}}, tmp_path / "model.pt")
    check_holds(tmp_path, STATE)


def test_every_dtype_of_torch_is_read(tmp_path):
    names = ["float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8"]
    state = {name: torch.tensor([1, 0, 3]).to(getattr(torch, name)) for name in names}
    torch.save(state, tmp_path / "model.pt")
    check_holds(tmp_path, state)


def test_tensors_that_share_their_storage_are_each_read_whole(tmp_path):
    embedding = torch.randn(6, 4)
    state = {"embed": embedding, "head": embedding, "row": embedding[2], "tail": embedding[3:]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    check_holds(tmp_path, state)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.T,
        lambda t: t[:, ::2],
        lambda t: t[:1].expand(5, 4),
        lambda t: torch._neg_view(t),
        lambda t: t.to(torch.complex64).conj(),
        lambda t: torch.nn.Parameter(t),
        lambda t: t[:0],
        lambda t: t[1, 1],
    ],
    ids=["transposed", "strided", "expanded", "negated", "conjugated", "parameter", "empty", "scalar"],
)
def test_a_view_is_read_as_the_values_that_it_shows(tmp_path, view):
    tensor = torch.randn(6, 4)
    torch.save({"plain": tensor, "view": view(tensor)}, tmp_path / "model.pt")
    check_holds(tmp_path, {"plain": tensor, "view": view(tensor)})


# -- hostile and damaged files ------------------------------------------------------------------


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self._command,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, zipped):
    mark = tmp_path / "executed"
    state = {"w": torch.ones(2), "x": Hostile(f"touch {mark}")}
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CorruptFile, match="code"):
        open_checkpoint(str(tmp_path))
    assert not mark.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)  # it would have worked
    assert mark.exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {"model": {}}, 5])
def test_a_pickle_without_tensors_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(NotACheckpoint, match="no tensors"):
        open_checkpoint(str(tmp_path))


# Made when they are wanted: torch warns of some.
ODD_TENSORS = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.empty(3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "unknown dtype": lambda: torch.ones(3, dtype=torch.complex128),
    "a terabyte that is one number": lambda: torch.ones(1).expand(1 << 40),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_tensors_that_have_no_plain_bytes_are_refused(tmp_path, kind):
    tensor = ODD_TENSORS[kind]()
    torch.save({"w": torch.ones(2), "odd": tensor}, tmp_path / "model.pt")
    with pytest.raises(CorruptFile, match=r"model\.pt"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_is_cut_off_anywhere_is_refused(tmp_path, zipped):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(50)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for size in [*range(0, 64, 3), *range(64, len(data), 31), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFile):
            open_checkpoint(str(path))


@pytest.mark.parametrize("text", [b"", b"hello", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_what_is_no_pickle_of_torchs_is_refused(tmp_path, text):
    (tmp_path / "model.pt").write_bytes(text)
    with pytest.raises((CorruptFile, NotACheckpoint), match=r"model\.pt"):
        open_checkpoint(str(tmp_path))


def repack(path: Path, *, compression: int = zipfile.ZIP_STORED, order: bytes = b"little") -> None:
    """Write the archive again, compressed or in another byte order, as torch can still load it."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            if name.endswith("/byteorder"):
                data = order
            elif "/data/" in name and order == b"big":
                data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
            archive.writestr(name, data)


def test_a_compressed_archive_is_refused_or_read_right_never_wrong(tmp_path):
    path = tmp_path / "model.pt"
    state = {"w": torch.arange(100.0)}
    torch.save(state, path)
    repack(path, compression=zipfile.ZIP_DEFLATED)
    assert torch.equal(torch.load(path, weights_only=True)["w"], state["w"])
    try:
        check_holds(path, state)
    except PipelineError as error:
        assert "model.pt" in str(error)


def test_another_byte_order_is_refused_or_read_right_never_wrong(tmp_path):
    """In a process of its own, for torch crashes where this goes wrong."""
    path = tmp_path / "model.pt"
    state = {"w": torch.arange(100.0)}
    torch.save(state, path)
    repack(path, order=b"big")
    assert torch.equal(torch.load(path, weights_only=True)["w"], state["w"])
    child = os.fork()
    if child == 0:
        failed = True
        try:
            signal.alarm(60)
            with suppress(PipelineError):
                check_holds(path, state)
            failed = False
        finally:
            os._exit(failed)
    assert os.waitpid(child, 0)[1] == 0
