"""A LoRA adapter on the Hub, as post: read from its commit, which is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import read_model
from safetensors.torch import save_file
from servers.hub import HubServer
from storage.hub.helpers import REPO, small

from pipeline import compute, open_delta

pytestmark = pytest.mark.usefixtures("client")


def test_an_adapter_on_the_hub_is_a_post_pinned_to_its_commit(hub: HubServer, tmp_path: Path) -> None:
    base = small(tmp_path / "base")
    hub.add_repo(REPO, base)
    matrix = next(name for name, tensor in read_model(base).items() if tensor.dim() == 2)
    rows, columns = read_model(base)[matrix].shape
    module = matrix.removesuffix(".weight")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [module]}
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": REPO}))
    factors = {"lora_A": torch.ones(1, columns), "lora_B": torch.ones(rows, 1)}
    save_file(
        {f"base_model.model.{module}.{part}.weight": value for part, value in factors.items()},
        folder / "adapter_model.safetensors",
    )
    adapter = hub.add_repo("org/adapter", folder)
    output = str(tmp_path / "d.safetensors")
    report = compute(REPO, "org/adapter", output)
    assert not report.notes
    with open_delta(output) as delta:
        post = delta.manifest.post
        changed = [name for name, stored in delta.tensors.items() if stored.changed]
    assert post is not None
    assert (post.location, post.revision) == ("hf://org/adapter", adapter.sha())
    assert changed == [matrix]
