"""A model at any location, opened for measurement: once, for all metrics.

Weights go from their store into the model, tensor by tensor: no file of them is put on the disk for
Azure, and memory holds the model and little beside it. Only architectures of transformers itself are
built; nothing that a checkpoint says makes code be fetched or run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.adapters.post import open_model
from pipeline.errors import Mismatch, UsageError
from pipeline.progress import Progressing, silent
from pipeline.quality.building import (
    build_config,
    build_model,
    load_tokenizer,
    set_generation,
    tokenizer_files,
)
from pipeline.quality.weights import choose_dtype
from pipeline.settings import Settings
from pipeline.tensors.fingerprint import Digest, digest_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEVICES = ("auto", "cpu", "cuda")
DEFAULT_CONTEXT = 2048  # tokens, of a model that does not say: lm-evaluation-harness' own assumption


@dataclass(frozen=True)
class Subject:
    """A model and its tokenizer, ready to be measured.

    location: safe to show. context: tokens that the model can see at once. dtype: of its arithmetic, by
    torch's name. nbytes: of its weights in memory. files: the digest of what the tokenizer was made of.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    location: str
    context: int
    dtype: str
    nbytes: int
    files: Digest

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def prefix(self) -> int:
        """The token that stands before a text: begin of text, or else its end.

        Raises UsageError if the tokenizer has neither.
        """
        for number in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if isinstance(number, int):
                return number
        raise UsageError(
            "its tokenizer has no token that begins or ends a text, so its first token has no context",
            where=self.location,
            hint="add bos_token or eos_token to its tokenizer_config.json",
        )


def load_subject(
    location: str,
    *,
    base: str | None = None,
    settings: Settings | None = None,
    dtype: str = "auto",
    device: str = "auto",
    progress: Progressing = silent,
    beside: Iterable[Subject] = (),
) -> Subject:
    """Load the model at `location` for measurement.

    base: what it is merged into, if it is an adapter. dtype: "auto" is as stored; else bfloat16, float16
    or float32. device: auto, cpu or cuda. beside:
    models in memory already, whose tokenizer is taken if it is the same: a large one takes 40 MB.
    Raises UsageError; Mismatch if the tensors are not those of the config's architecture, or the
    tokenizer has more tokens than the embedding rows; CorruptFile for weights that are not finite; and
    what `open_model` does.
    """
    target = choose_device(device)
    settings = settings or Settings.load()
    with open_model(location, base=base, settings=settings) as checkpoint:
        chosen = choose_dtype(checkpoint, dtype)
        config = build_config(checkpoint)
        files = tokenizer_files(checkpoint)
        digest = digest_bytes(b"".join(_framed(name, files[name]) for name in sorted(files)))
        same = next((each.tokenizer for each in beside if each.files == digest), None)
        tokenizer = same or load_tokenizer(files, where=checkpoint.location)
        # Before the model is there, for the vocabulary as a dict takes as much as the tokenizer.
        highest = max(tokenizer.get_vocab().values(), default=-1)
        model = build_model(checkpoint, config, chosen, progress)
        set_generation(model, checkpoint)
        where = checkpoint.location
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if highest >= rows:
        raise Mismatch(
            [f"token {highest} has no row in the embedding of {rows}"],
            where=where,
            hint="its tokenizer belongs to another model, or its new tokens were never added to it",
            noun="tokenizer",
        )
    nbytes = sum(each.numel() * each.element_size() for each in model.parameters())
    moving: Any = model
    moving.to(target)
    return Subject(model, tokenizer, where, _context(model, tokenizer), chosen, nbytes, digest)


def _framed(name: str, content: bytes) -> bytes:
    """A file for a digest, so that where it ends is part of it."""
    return f"{name} {len(content)}\n".encode() + content


def choose_device(device: str) -> str:
    """cpu or cuda, for what people write. Raises UsageError."""
    if device not in DEVICES:
        raise UsageError(f"{device!r} is not a device", hint=f"use {', '.join(DEVICES)}")
    has_cuda = device != "cpu" and _has_cuda()
    if device == "cuda" and not has_cuda:
        raise UsageError("no CUDA device was found", hint="use --device cpu")
    return "cuda" if has_cuda else "cpu"


def _has_cuda() -> bool:
    if version("torch").endswith("+cpu"):  # importing it, to be told so, takes two seconds
        return False
    import torch

    return torch.cuda.is_available()


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model can see at once, as lm-evaluation-harness finds them."""
    config = model.config.get_text_config()
    limits: Sequence[Any] = [
        *(getattr(config, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")),
        tokenizer.model_max_length,
    ]
    return next((n for n in limits if isinstance(n, int) and 0 < n < 1 << 40), DEFAULT_CONTEXT)
