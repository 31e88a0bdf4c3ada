"""The examples do what they say, on the model family of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from azure.storage.blob import ContainerClient
from forks import ROOT
from models import formula, read_model, same_bits
from servers.azurite import Azurite
from servers.hub import HubServer

FAMILY = ROOT / "examples" / "family"


def run(*arguments: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def in_azure(azurite: Azurite, container: ContainerClient) -> dict[str, str]:
    """The environment that names a container as the store."""
    return {
        "AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string,
        "AZURE_STORAGE_CONTAINER_NAME": str(container.container_name),
    }


def download(container: ContainerClient, prefix: str, folder: Path) -> Path:
    folder.mkdir()
    for name in container.list_blob_names(name_starts_with=f"{prefix}/"):
        (folder / Path(name).name).write_bytes(container.download_blob(name).readall())
    return folder


def is_transferred(folder: Path) -> bool:
    """Whether the model is base-v2 with what post-v1 learned, by the formula."""
    moved = read_model(folder)
    base, post, new = (read_model(FAMILY / name) for name in ("base-v1", "post-v1", "base-v2"))
    return all(
        same_bits(tensor, formula(new[name], (1.0, post[name], base[name])))
        for name, tensor in moved.items()
    )


def test_the_azure_workflow_computes_applies_and_verifies_in_a_container(
    azurite: Azurite, tmp_path: Path
) -> None:
    container = azurite.create_container()
    said = run(ROOT / "examples" / "azure_workflow.py", cwd=tmp_path, env=in_azure(azurite, container))
    assert "batch: half done, restored done" in said
    assert "verified, post restored bit for bit: True" in said
    listed = [line.split()[0::2] for line in said.splitlines() if line.startswith(("delta ", "model "))]
    assert listed == [
        ["delta", "deltas/v1.safetensors"],
        ["model", "models/half"],
        ["model", "models/post-v2"],
        ["model", "models/restored"],
    ]
    assert list(tmp_path.iterdir()) == []
    assert is_transferred(download(container, "models/post-v2", tmp_path / "moved"))


def test_models_of_the_hub_become_a_delta_and_a_model_in_a_container(
    azurite: Azurite, hub: HubServer, tmp_path: Path
) -> None:
    for name in ("base-v1", "post-v1", "base-v2"):
        hub.add_repo(f"org/{name}", FAMILY / name)
    container = azurite.create_container()
    said = run(
        ROOT / "examples" / "hub_to_azure.py",
        "org/base-v1",
        "org/post-v1@main",
        "org/base-v2",
        cwd=tmp_path,
        env={**in_azure(azurite, container), **hub.env(tmp_path / "hub")},
    )
    assert "verified: 38 tensors" in said
    assert container.get_blob_client("deltas/post-v1.safetensors").exists()
    assert is_transferred(download(container, "models/post-v1-moved", tmp_path / "moved"))


def test_basic_usage_runs(tmp_path: Path) -> None:
    said = run(ROOT / "examples" / "basic_usage.py", tmp_path)
    assert "same base, restored and verified bit for bit: True" in said
    restored, post = read_model(tmp_path / "restored-v1"), read_model(FAMILY / "post-v1")
    assert all(same_bits(restored[name], post[name]) for name in post)
