"""Secrets in a world of servers, models and keys, and the search for them in all that is written."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from servers.azurite import Azurite
from servers.refusing import Refusing
from servers.tokens import Tokens

PASSWORD = "canary pass/word+=%"
HUB_TOKEN = "hf_canaryCanaryCANARYcanary0123456789"
WRONG_KEY = base64.b64encode(
    b"canary that is no key of this account, but looks as if it were one!"
).decode()


@dataclass
class World:
    """Where the canaries are sent: an account, a Hub, models and keys; and what they are."""

    folder: Path
    azurite: Azurite
    refusing: Refusing
    tokens: Tokens
    container: str
    sas: str
    canaries: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.azurite.url}/{self.container}"

    def credentials(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Each way to reach the container: where it is, and the environment."""
        account = {"AZURE_STORAGE_ACCOUNT_URL": self.azurite.url}
        az = f"az://{self.container}"
        return {
            "string": (az, {"AZURE_STORAGE_CONNECTION_STRING": self.azurite.connection_string}),
            "key": (az, {**account, "AZURE_STORAGE_ACCOUNT_KEY": self.azurite.account_key}),
            "sas": (az, {**account, "AZURE_STORAGE_SAS_TOKEN": self.sas}),
            "url": (f"{self.place}?{self.sas}", {}),
            "github": (self.place, {**account, **self.tokens.environment("github", self.folder)}),
            "secret": (self.place, {**account, **self.tokens.environment("secret", self.folder)}),
        }

    def leaks(self, *contents: bytes) -> list[str]:
        """The canaries that are in any of `contents`, in any form."""
        issued = {f"token {n}": token for n, token in enumerate(self.tokens.issued)}
        return [
            name
            for name, value in {**self.canaries, **issued}.items()
            for form in forms(value)
            if any(form in content for content in contents)
        ]


def forms(value: str) -> set[bytes]:
    """How `value` may be written: as it is, percent-encoded, and inside anything in base64."""
    plain = {value, unquote(value)}
    texts = plain | {quote(each, safe=safe) for each in plain for safe in ("", "/")}
    texts |= {text.lower() for text in texts if "%" in text}
    found = {text.encode() for text in texts} | {json.dumps(each)[1:-1].encode() for each in plain}
    for each in plain:
        for shift in range(3):  # whole characters of it, wherever it begins
            data = base64.b64encode(bytes(shift) + each.encode())
            found.add(data[(0, 2, 3)[shift] : len(data) - 4])
    return found


def kept(world: World) -> list[bytes]:
    """Everything in the folder, and in the container: names, contents, metadata and tags."""
    paths = [path for path in sorted(world.folder.rglob("*")) if path.is_file()]
    found = [str(path).encode() + path.read_bytes() for path in paths]
    client = world.azurite.client(world.container)
    for blob in client.list_blobs(include=["metadata", "tags", "uncommittedblobs"]):
        found.append(repr(vars(blob)).encode())
        if blob.etag and blob.size:
            found.append(client.download_blob(blob.name).readall())
    return found


def commands(place: str) -> dict[str, tuple[str, ...]]:
    """Every command, in an order in which each finds what it needs; results go to `place`."""
    where, query, sas = place.partition("?")

    def at(name: str) -> str:
        return f"{where}/{name}{query}{sas}"

    signed = ("--sign-key", "p256-private.pem")
    return {
        "compute": (
            "compute", "--base", "org/base", "--post", "./post", "--output", at("d.safetensors"), *signed
        ),
        "inspect": ("inspect", at("d.safetensors")),
        "verify": ("verify", at("d.safetensors"), "--base", "./base", "--key", "p256-public.pem"),
        "convert": ("convert", at("d.safetensors"), "--codec", "none", "--output", at("p.safetensors")),
        "combine": ("combine", "--delta", at("d.safetensors"), "--output", at("c.safetensors")),
        "apply": (
            "apply", "--base", "./new", "--delta", at("d.safetensors"), "--output", at("model"), *signed
        ),
        "verify model": ("verify", at("model"), "--key", "p256-public.pem"),
        "batch": ("batch", "batch.json"),
        "copy": ("copy", at("d.safetensors"), at("e.safetensors")),
        "list": ("list", place),
        "clean": ("clean", place),
        "delete": ("delete", at("e.safetensors"), "--yes"),
        "doctor": ("doctor", "--store", place),
    }  # fmt: skip


def write_batch(world: World, place: str) -> None:
    """A config that computes to `place`, and applies from there to a folder."""
    where, query, sas = place.partition("?")
    output, lost = (f"{where}/{name}.safetensors{query}{sas}" for name in ("b", "l"))
    steps = [
        {"id": "d", "run": "compute", "base": "./base", "post": "./post", "output": output},
        {"id": "m", "run": "apply", "base": "./new", "deltas": ["@d"], "output": "./out"},
        {"id": "lost", "run": "compute", "base": "./no", "post": "./post", "output": lost},
    ]
    # The config is the user's own file, and lies beside what is searched.
    (world.folder.parent / "batch.json").write_text(json.dumps({"steps": steps}))
