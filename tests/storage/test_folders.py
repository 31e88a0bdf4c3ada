"""What every store promises about folders: all or nothing, on local folders and containers alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from storage.helpers import content, publish

from pipeline.errors import OutputExists
from pipeline.storage.base import Store

MODEL = {"model.safetensors": b"weights", "tokenizer.json": b"{}", "empty": b"", "config.json": b"{}"}
SHARDED = {"model-1.safetensors": b"w1", "model-2.safetensors": b"w2", "index.json": b"{}"}


def test_a_folder_appears_when_it_is_published_and_not_before(
    store: Store, open_store: Callable[[], Store]
) -> None:
    other = open_store()
    with store.create_folder("out/model", size_hint=100, overwrite=False) as folder:
        for file, data in MODEL.items():
            with folder.create(file, size_hint=len(data)) as writer:
                writer.write(0, data)
                writer.commit()
            assert list(other.list()) == []
        folder.publish(list(MODEL))
        assert content(other, "out/model") == MODEL
    assert content(other, "out/model") == MODEL


def test_a_folder_may_have_folders(store: Store) -> None:
    files = {"additional_chat_templates/tool.jinja": b"{{ tool }}", "config.json": b"{}"}
    publish(store, "model", files)
    assert content(store, "model") == files


def test_a_folder_that_is_not_published_leaves_nothing(store: Store) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        store.create_folder("model", size_hint=1, overwrite=False) as folder,
    ):
        writer = folder.create("config.json", size_hint=2)
        writer.write(0, b"{}")
        writer.commit()
        folder.create("half", size_hint=2).write(0, b"ha")
        raise ZeroDivisionError
    assert list(store.list()) == []
    publish(store, "model", MODEL)
    assert content(store, "model") == MODEL


def test_a_folder_with_content_is_refused(store: Store) -> None:
    publish(store, "model", MODEL)
    with pytest.raises(OutputExists, match="--overwrite"):
        store.create_folder("model", size_hint=1, overwrite=False)
    assert content(store, "model") == MODEL


def test_a_file_under_the_folders_name_is_refused(store: Store) -> None:
    with store.create("model", size_hint=4, overwrite=False) as writer:
        writer.write(0, b"file")
        writer.commit()
    with pytest.raises(OutputExists):
        store.create_folder("model", size_hint=1, overwrite=False)


def test_a_name_that_only_begins_like_another_is_free(store: Store) -> None:
    publish(store, "model-v2", MODEL)
    publish(store, "model", SHARDED)
    assert content(store, "model") == SHARDED
    assert content(store, "model-v2") == MODEL


def test_an_overwritten_folder_has_the_new_files_and_no_others(store: Store) -> None:
    """An old index beside new weights would send every reader to the old shards."""
    publish(store, "model", SHARDED)
    publish(store, "model", MODEL, overwrite=True)
    assert content(store, "model") == MODEL


def test_large_files_are_overwritten_under_their_own_names(store: Store) -> None:
    """What is staged for a name must outlive whatever happens to the name's old content."""
    for fill in (b"old", b"new"):
        files = {"model.safetensors": fill * (3 << 20), "config.json": fill}
        publish(store, "model", files, overwrite=True)
        assert content(store, "model") == files


def test_overwriting_a_folder_that_is_not_there_makes_it(store: Store) -> None:
    publish(store, "model", MODEL, overwrite=True)
    assert content(store, "model") == MODEL


def test_an_overwrite_that_is_given_up_leaves_the_old_folder(store: Store) -> None:
    publish(store, "model", SHARDED)
    with store.create_folder("model", size_hint=1, overwrite=True) as folder:
        folder.create("config.json", size_hint=2).write(0, b"{}")
    assert content(store, "model") == SHARDED


def test_two_runs_that_publish_one_folder_do_not_mix(store: Store) -> None:
    """The second is refused; what lies there is the first one's, whole."""
    first = store.create_folder("model", size_hint=1, overwrite=False)
    second = store.create_folder("model", size_hint=1, overwrite=False)
    with first, second:
        for folder, files in ((first, MODEL), (second, SHARDED)):
            for file, data in files.items():
                writer = folder.create(file, size_hint=len(data))
                writer.write(0, data)
                writer.commit()
        second.publish(list(SHARDED))
        with pytest.raises(OutputExists):
            first.publish(list(MODEL))
    assert content(store, "model") == SHARDED
