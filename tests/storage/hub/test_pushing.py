"""What pushing to the Hub promises: one commit of everything, nothing overwritten that nobody saw."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from servers.hub import HubServer

from pipeline.errors import (
    AccessError,
    CorruptFile,
    NotFound,
    OutputExists,
    PipelineError,
    StorageError,
    UsageError,
)
from pipeline.storage.hub.access import check_may_push
from pipeline.storage.hub.pushing import HubTarget, Upload, push
from pipeline.units import MIB

REPO = "org/new"
TOKEN = "hf_writer_canary"
CARD = b"---\ntags:\n- test\n---\n# A model\n"


class Bytes:
    """A reader of bytes. on_sending: called when it is begun anew, after its digest is known."""

    is_remote = True
    name = "bytes"

    def __init__(self, content: bytes, on_sending: Callable[[], None] | None = None) -> None:
        self.content = content
        self.nbytes = len(content)
        self.on_sending = on_sending
        self.reads: list[int] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append(offset)
        if self.on_sending and self.reads.count(0) == 2 and not offset:
            self.on_sending()
        buffer[:] = self.content[offset : offset + len(buffer)]

    def close(self) -> None:
        pass


WEIGHTS = Bytes(bytes(range(256)) * 1000)
FILES = (
    Upload("model.safetensors", WEIGHTS),
    Upload("config.json", Bytes(b"{}")),
    Upload("README.md", CARD),
)


pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture(autouse=True)
def token(hub: HubServer) -> None:
    """One that may write."""
    hub.add_token(TOKEN, write=True)


def pushed(*uploads: Upload, overwrite: bool = False, **target: object) -> str:
    return push(
        HubTarget.parse(REPO, **target),  # type: ignore[arg-type]
        uploads or FILES,
        message="Made by a test",
        token=TOKEN,
        overwrite=overwrite,
        rivals=lambda name: name.endswith((".safetensors", ".bin")),
    )


def held(hub: HubServer, branch: str = "main") -> dict[str, bytes]:
    """What the Hub has on the branch, but for what it makes itself."""
    repo = hub.repos[REPO]
    files = repo.commits[repo.sha(branch)].files
    return {name: file.source.read_bytes() for name, file in files.items() if name != ".gitattributes"}


def contents(*uploads: Upload) -> dict[str, bytes]:
    return {u.name: u.source if isinstance(u.source, bytes) else u.source.content for u in uploads}  # type: ignore[attr-defined]


def test_everything_comes_by_one_commit_into_a_repository_that_is_made(hub: HubServer) -> None:
    address = pushed()
    assert held(hub) == contents(*FILES)
    assert hub.repos[REPO].messages == ["Made by a test"]
    assert address == f"{hub.url}/{REPO}/commit/{hub.repos[REPO].sha()}"
    assert hub.repos[REPO].commits[hub.repos[REPO].sha()].files["model.safetensors"].sha256
    assert not hub.repos[REPO].private


def test_a_large_file_goes_up_in_parts(hub: HubServer) -> None:
    hub.multipart_bytes = 100_000
    pushed()
    assert held(hub) == contents(*FILES)
    assert sum(request.method == "PUT" for request in hub.requests) == 3


def test_a_store_is_read_in_large_pieces_only(hub: HubServer) -> None:
    reader = Bytes(bytes(20 * MIB))
    pushed(Upload("model.safetensors", reader))
    assert len(reader.reads) <= 8  # three for the digest, three to send it; and the client tries first


def test_another_host_takes_the_bytes_and_never_gets_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(cdn=True) as hub:
        hub.patch_client(monkeypatch, tmp_path / "home")
        hub.add_token(TOKEN, write=True)
        pushed()
        assert held(hub) == contents(*FILES)
        sent = [request for request in hub.requests if request.cdn]
        assert [request.method for request in sent] == ["PUT"]
        assert not sent[0].authorized


def test_no_error_shows_the_address_that_an_upload_goes_to(hub: HubServer) -> None:
    hub.fail_next("/0", 403, method="PUT", times=100)
    with pytest.raises(PipelineError) as error:
        pushed()
    shown = "".join(traceback.format_exception(error.value))
    assert "canary" not in shown
    assert not held(hub)


def test_what_is_there_already_is_not_pushed_again(hub: HubServer) -> None:
    first = pushed()
    assert pushed() == first
    assert len(hub.repos[REPO].messages) == 1


def test_files_beside_are_left_alone(hub: HubServer) -> None:
    pushed(Upload("notes.txt", b"notes"))
    pushed()
    assert held(hub) == {**contents(*FILES), "notes.txt": b"notes"}


@pytest.mark.parametrize("other", [b"longer than it was", b"[]"], ids=["longer", "as long"])
def test_other_content_under_these_names_is_refused_without_overwrite(
    hub: HubServer, other: bytes
) -> None:
    pushed(Upload("config.json", other))
    sha = hub.repos[REPO].sha()
    with pytest.raises(OutputExists, match="--overwrite") as error:
        pushed()
    assert "config.json" in str(error.value)
    assert hub.repos[REPO].sha() == sha
    pushed(overwrite=True)
    assert held(hub) == contents(*FILES)


def test_weights_that_a_loader_might_prefer_are_refused_or_replaced(hub: HubServer) -> None:
    shard = "model-00001-of-00002.safetensors"
    pushed(Upload(shard, b"old weights"))
    with pytest.raises(OutputExists, match=shard):
        pushed()
    pushed(overwrite=True)
    assert held(hub) == contents(*FILES)


def test_a_branch_is_made_if_it_is_missing(hub: HubServer) -> None:
    pushed(Upload("notes.txt", b"notes"))
    pushed(revision="dev/x")
    assert held(hub) == {"notes.txt": b"notes"}
    assert held(hub, "dev/x") == {**contents(*FILES), "notes.txt": b"notes"}


def test_a_new_repository_is_private_if_it_shall_be(hub: HubServer) -> None:
    pushed(private=True)
    assert hub.repos[REPO].private
    pushed(private=True)


def test_a_public_repository_is_not_taken_for_a_private_one(hub: HubServer) -> None:
    pushed(Upload("notes.txt", b"notes"))
    with pytest.raises(UsageError, match="is public"):
        pushed(private=True)
    assert held(hub) == {"notes.txt": b"notes"}


# -- other people, and the network ------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read twice even if they are small."""
    monkeypatch.setattr("pipeline.storage.hub.pushing._READ_BYTES", 64 << 10)


@pytest.mark.usefixtures("small_pieces")
def test_a_branch_that_moves_meanwhile_is_looked_at_again(hub: HubServer, tmp_path: Path) -> None:
    """Between the last look and the commit: while the weights are sent."""
    pushed(Upload("notes.txt", b"notes"))
    pushed_by_another = tmp_path / "other"
    pushed_by_another.mkdir()
    (pushed_by_another / "paper.pdf").write_bytes(b"theirs")

    def move() -> None:
        hub.repos[REPO].set_branch("main", pushed_by_another)

    reader = Bytes(WEIGHTS.content, move)
    uploads = (Upload("model.safetensors", reader), *FILES[1:])
    pushed(*uploads)
    assert held(hub) == {**contents(*uploads), "paper.pdf": b"theirs"}
    assert any(request.status == 412 for request in hub.requests)


@pytest.mark.usefixtures("small_pieces")
def test_what_another_pushed_meanwhile_is_not_overwritten(hub: HubServer, tmp_path: Path) -> None:
    pushed(Upload("notes.txt", b"notes"))
    pushed_by_another = tmp_path / "other"
    pushed_by_another.mkdir()
    (pushed_by_another / "config.json").write_bytes(b"theirs")

    def move() -> None:
        hub.repos[REPO].set_branch("main", pushed_by_another)

    reader = Bytes(WEIGHTS.content, move)
    with pytest.raises(OutputExists, match=r"config\.json"):
        pushed(Upload("model.safetensors", reader), *FILES[1:])
    assert held(hub) == {"config.json": b"theirs"}


def test_a_commit_whose_answer_is_lost_is_recognised(hub: HubServer) -> None:
    hub.lose_next_answer("/commit/main")
    address = pushed()
    assert held(hub) == contents(*FILES)
    assert hub.repos[REPO].messages == ["Made by a test"]
    assert address == f"{hub.url}/{REPO}/commit/{hub.repos[REPO].sha()}"


@pytest.mark.parametrize("path", ["/api/whoami-v2", "/commit/main", f"/api/models/{REPO}/revision/main"])
def test_a_passing_failure_is_tried_again(hub: HubServer, path: str) -> None:
    hub.fail_next(path, 503, method=None, times=2)
    check_may_push(HubTarget(REPO), TOKEN)
    pushed()
    assert held(hub) == contents(*FILES)


@pytest.mark.usefixtures("small_pieces")
def test_a_store_that_fails_says_so_itself(hub: HubServer) -> None:
    def fail() -> None:
        raise CorruptFile("changed", where="az://x")

    reader = Bytes(WEIGHTS.content, fail)
    with pytest.raises(CorruptFile, match="az://x"):
        pushed(Upload("model.safetensors", reader))
    assert not held(hub)


def test_a_card_that_the_hub_refuses_is_an_error_of_ours(hub: HubServer) -> None:
    with pytest.raises(StorageError, match="metadata"):
        pushed(Upload("README.md", b"---\ntags: [\n---\n"))
    assert not held(hub)


# -- tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "says"),
    [("reader-canary", "may only read"), ("unknown-canary", "refused"), (None, "no token")],
)
def test_a_token_that_can_not_write_is_found_out_before_any_work(
    hub: HubServer, token: str | None, says: str
) -> None:
    hub.add_token("reader-canary")
    with pytest.raises(AccessError, match=says) as error:
        check_may_push(HubTarget(REPO), token)
    assert "HF_TOKEN" in str(error.value)
    assert "canary" not in "".join(traceback.format_exception(error.value))


def test_a_token_that_may_not_write_there_says_so(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    hub.add_repo(REPO, tmp_path / "source")
    hub.add_token("reader")
    for repo in (REPO, "org/another"):
        with pytest.raises(AccessError, match="may not write there"):
            push(HubTarget(repo), FILES, message="m", token="reader", overwrite=False)


def test_somebody_elses_private_repository_is_not_found(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    hub.add_repo(REPO, tmp_path / "source", private=True, token="other")
    with pytest.raises(NotFound, match="private"):
        pushed()


def test_offline_nothing_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AccessError, match="HF_HUB_OFFLINE"):
        pushed()


@pytest.mark.parametrize("text", ["name", "./org/name", "org/a--b", "az://container/x", "org/name/more"])
def test_what_is_not_a_repository_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        HubTarget.parse(text)


def test_a_branch_may_be_part_of_the_name() -> None:
    assert HubTarget.parse("hf://org/name@dev") == HubTarget("org/name", "dev")
    with pytest.raises(UsageError, match="two revisions"):
        HubTarget.parse("org/name@dev", revision="main")
