"""Which models are measured: what they are by content, and each loaded only once, if at all."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Unpack

from blake3 import blake3

from pipeline.checkpoints.adapters.post import open_model
from pipeline.operations.fingerprint import fingerprint
from pipeline.operations.setup import Reading, Setup
from pipeline.quality.report import Role
from pipeline.quality.subject import Subject, load_subject

# Whose base an adapter in a role is merged into. A base itself is no adapter.
BASES: Mapping[Role, Role] = {"model": "base", "reference": "base", "donor": "donor_base"}


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
    models with the same key measure the same. base: what it is merged into, should it be an adapter.
    """

    text: str = field(repr=False)
    location: str
    fingerprint: str
    key: str
    base: str | None = field(default=None, repr=False)


def identify(named: Mapping[Role, str], **options: Unpack[Reading]) -> dict[Role, Model]:
    """The model of each role; the weights of each are read once. Raises what `open_model` does."""
    found: dict[tuple[str, str | None], Model] = {}
    for role, text in named.items():
        base = base_of(role, named)
        if (text, base) not in found:
            found[text, base] = _identify(text, base, options)
    return {role: found[text, base_of(role, named)] for role, text in named.items()}


def base_of(role: Role, named: Mapping[Role, str]) -> str | None:
    """What the model of `role` is merged into, should it be an adapter.

    named: the text of each role.
    """
    return named.get(BASES[role]) if role in BASES else None


def _identify(text: str, base: str | None, options: Reading) -> Model:
    weights = str(fingerprint(text, base=base, **options))
    return identify_known(text, weights, Setup.of(options), base=base)


def identify_known(text: str, weights: str, setup: Setup, *, base: str | None = None) -> Model:
    """The model at `text`, whose weights have the fingerprint `weights`: they are not read.

    base: what it is merged into, should it be an adapter.
    """
    digest = blake3(weights.encode())
    with open_model(text, base=base, settings=setup.settings) as checkpoint:
        digest.update(json.dumps(checkpoint.config, sort_keys=True).encode())
        for name, content in sorted(checkpoint.read_companions().items()):
            digest.update(json.dumps(name).encode() + blake3(content).digest())
        return Model(text, checkpoint.location, weights, digest.hexdigest(), base)


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
                base=model.base,
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
