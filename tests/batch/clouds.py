"""Steps whose outputs are in a container, large enough to be worth splitting."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerClient
from models import cast, near, random_state, write_model
from servers.azurite import Azurite

from pipeline.batch.specification import Specification
from pipeline.units import MIB


@dataclass(frozen=True)
class Bucket:
    """A container of Azurite, and what lies in it."""

    client: ContainerClient

    @classmethod
    def fresh(cls, azurite: Azurite) -> Bucket:
        return cls(azurite.create_container(f"test-{secrets.token_hex(8)}"))

    @property
    def location(self) -> str:
        return f"az://{self.client.container_name}"

    def files(self, prefix: str) -> dict[str, bytes]:
        """The content of all blobs whose names begin so, by what follows it."""
        names = [blob.name for blob in self.client.list_blobs(prefix)]
        return {name[len(prefix) :]: self.client.download_blob(name).readall() for name in names}

    def spoil(self, name: str) -> None:
        """Change one bit in the middle of a blob."""
        data = bytearray(self.client.download_blob(name).readall())
        data[len(data) // 2] ^= 1
        self.client.upload_blob(name, bytes(data), overwrite=True)

    def staged_bytes(self, prefix: str) -> int:
        """Bytes of blocks that were staged for such names and not committed."""
        found = self.client.list_blobs(prefix, include=["uncommittedblobs"])
        total = 0
        for blob in found:
            _, blocks = self.client.get_blob_client(blob.name).get_block_list("all")
            total += sum(block.size for block in blocks)
        return total


@dataclass(frozen=True)
class Sample:
    """A step to be made somewhere: `what` is its output's name. needs: steps whose outputs it reads."""

    what: str
    run: str
    arguments: dict[str, Any]
    store: str
    needs: tuple[str, ...] = field(default=())

    @property
    def suffix(self) -> str:
        """Of its output's name."""
        return "" if self.run == "apply" else ".safetensors"

    def at(self, where: str, **more: Any) -> Specification:
        """The step with its output in the folder `where`."""
        output = f"{self.store}/{where}/{self.what}{self.suffix}"
        return Specification(self.what, self.run, {**self.arguments, "output": output, **more})


def write_family(folder: Path) -> Path:
    """Models of 12 MiB: base, post, another post, and a new base."""
    base = random_state(0, vocab=2048, width=1024, layers=1)
    write_model(folder / "base", cast(base))
    write_model(folder / "post", cast(near(base, 1)))
    write_model(folder / "other", cast(near(base, 2)))
    write_model(folder / "new-base", cast(near(base, 3, scale=1e-2)))
    return folder


def steps(family: Path, store: str) -> dict[str, Sample]:
    """Each kind of step, by name, those that others read in the folder "whole"."""
    base, post, other = (str(family / name) for name in ("base", "post", "other"))
    new = str(family / "new-base")

    def delta(name: str, scale: float) -> dict[str, Any]:
        return {"delta": f"{store}/whole/{name}.safetensors", "scale": scale}

    shards = {"shard_size": 5 * MIB}
    difference = {"base": base, "post": other, "scale": 0.5}
    samples = [
        Sample("packed", "compute", {"base": base, "post": post, "codec": "rans"}, store),
        Sample("plain", "compute", {"base": base, "post": other, "codec": "none"}, store),
        Sample("sum", "combine", {"deltas": [delta("packed", 0.5), delta("plain", 2.0)]}, store),
        Sample("same-base", "apply", {"base": base, "deltas": [delta("packed", 1.0)]} | shards, store),
        Sample("model", "apply", {"base": new, "deltas": [delta("plain", 0.7)]} | shards, store),
        Sample("fused", "apply", {"base": new, "deltas": [difference]} | shards, store),
    ]
    needs = {
        "sum": ("packed", "plain"),
        "same-base": ("packed",),
        "model": ("plain",),
    }
    return {each.what: replace(each, needs=needs.get(each.what, ())) for each in samples}
