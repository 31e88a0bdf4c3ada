"""Which models are measured: what they are by content, and each loaded only once, if at all."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Unpack

from blake3 import blake3

from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.operations.fingerprint import fingerprint
from pipeline.operations.setup import Reading, Setup
from pipeline.quality.report import Role
from pipeline.quality.subject import Subject, load_subject


@dataclass(frozen=True, slots=True)
class How:
    """Settings that figures depend on. versions: of the packages that compute."""

    batch_size: int
    seed: int
    device: str
    dtype: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model by content. text: as it was named, perhaps with a secret. location: safe to show.

    fingerprint: of its weights. key: the digest of those, its config, tokenizer and chat template: two
    models with the same key measure the same.
    """

    text: str = field(repr=False)
    location: str
    fingerprint: str
    key: str


def identify(named: Mapping[Role, str], **options: Unpack[Reading]) -> dict[Role, Model]:
    """The model of each role; the weights of each are read once. Raises what `open_checkpoint` does."""
    found: dict[str, Model] = {}
    for text in named.values():
        if text not in found:
            found[text] = _identify(text, options)
    return {role: found[text] for role, text in named.items()}


def _identify(text: str, options: Reading) -> Model:
    return identify_known(text, str(fingerprint(text, **options)), Setup.of(options))


def identify_known(text: str, weights: str, setup: Setup) -> Model:
    """The model at `text`, whose weights have the fingerprint `weights`: they are not read."""
    digest = blake3(weights.encode())
    with open_checkpoint(text, settings=setup.settings) as checkpoint:
        digest.update(json.dumps(checkpoint.config, sort_keys=True).encode())
        for name, content in sorted(checkpoint.read_companions().items()):
            digest.update(json.dumps(name).encode() + blake3(content).digest())
        return Model(text, checkpoint.location, weights, digest.hexdigest())


class Bench:
    """Models in memory while they are needed. before_load: is told of each that is to be read now."""

    def __init__(
        self, setup: Setup, how: How, before_load: Callable[[Model], None] = lambda model: None
    ) -> None:
        self._setup = setup
        self._how = how
        self._before_load = before_load
        self._loaded: dict[str, Subject] = {}

    def subject(self, model: Model) -> Subject:
        """The model, loaded if it is not yet. Raises what `load_subject` does."""
        if model.key not in self._loaded:
            self._before_load(model)
            self._loaded[model.key] = load_subject(
                model.text,
                settings=self._setup.settings,
                dtype=self._how.dtype,
                device=self._how.device,
                progress=self._setup.progress,
                beside=self._loaded.values(),
            )
        return self._loaded[model.key]

    def free(self, model: Model) -> None:
        """Let go of the model's memory."""
        if self._loaded.pop(model.key, None) is not None:
            gc.collect()  # models refer to themselves
            _empty_device()


def _empty_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
