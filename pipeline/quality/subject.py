"""A model at any location, opened for measurement: once, for all metrics.

Weights go from their store into the model, tensor by tensor: no file of them is put on the disk for
Azure, and memory holds the model and little beside it. Only architectures of transformers itself are
built; nothing that a checkpoint says makes code be fetched or run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.alignment import show
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.errors import CorruptFile, Mismatch, NotACheckpoint, PipelineError, UsageError
from pipeline.progress import Progressing, silent
from pipeline.quality.weights import choose_dtype, stored_tensors
from pipeline.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEVICES = ("auto", "cpu", "cuda")
DEFAULT_CONTEXT = 2048  # tokens, of a model that does not say: lm-evaluation-harness' own assumption

# What a config may say that makes transformers fetch or replace code, or read other files.
_UNWANTED = (
    "auto_map", "custom_pipelines", "attn_implementation", "experts_implementation", "fusion_config",
    "kernel_config", "use_kernels", "transformers_weights", "quantization_config",
)  # fmt: skip
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


@dataclass(frozen=True)
class Subject:
    """A model and its tokenizer, ready to be measured.

    location: safe to show. context: tokens that the model can see at once. dtype: of its arithmetic, by
    torch's name. nbytes: of its weights in memory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    location: str
    context: int
    dtype: str
    nbytes: int

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
    settings: Settings | None = None,
    dtype: str = "auto",
    device: str = "auto",
    progress: Progressing = silent,
) -> Subject:
    """Load the model at `location` for measurement.

    dtype: "auto" is as stored; else bfloat16, float16 or float32. device: auto, cpu or cuda.
    Raises UsageError; Mismatch if the tensors are not those of the config's architecture, or the
    tokenizer has more tokens than the embedding rows; CorruptFile for weights that are not finite; and
    what `open_checkpoint` does.
    """
    target = choose_device(device)
    settings = settings or Settings.load()
    with open_checkpoint(location, settings=settings) as checkpoint:
        chosen = choose_dtype(checkpoint, dtype)
        config = _build_config(checkpoint)
        tokenizer = _load_tokenizer(checkpoint)
        model = _fill(checkpoint, config, chosen, progress)
        _set_generation(model, checkpoint)
        where = checkpoint.location
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise Mismatch(
            [f"token {highest} has no row in the embedding of {rows}"],
            where=where,
            hint="its tokenizer belongs to another model, or its new tokens were never added to it",
            noun="tokenizer",
        )
    nbytes = sum(each.numel() * each.element_size() for each in model.parameters())
    model.to(target)
    return Subject(model, tokenizer, where, _context(model, tokenizer), chosen, nbytes)


def choose_device(device: str) -> str:
    """cpu or cuda, for what people write. Raises UsageError."""
    import torch

    if device not in DEVICES:
        raise UsageError(f"{device!r} is not a device", hint=f"use {', '.join(DEVICES)}")
    has_cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise UsageError("no CUDA device was found", hint="use --device cpu")
    return "cuda" if has_cuda else "cpu"


def _build_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    where = checkpoint.location
    if checkpoint.config is None:
        raise NotACheckpoint(
            "has no config.json, so nobody knows what model it is",
            where=where,
            hint="name the folder of the whole model",
        )
    raw = _harmless(checkpoint.config)
    _check_layers(raw, len(checkpoint.tensors), where)
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise NotACheckpoint(
            f"its model_type {kind!r} is none that transformers knows by itself",
            where=where,
            hint="models that bring code of their own are not run",
        )
    try:
        config: PreTrainedConfig = CONFIG_MAPPING[kind].from_dict(raw)
    except Exception as error:  # checks of any kind, in hundreds of classes
        raise CorruptFile(f"its config.json makes no sense: {error}", where=where) from error
    return config


def _harmless(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what is private to transformers, or would have it fetch code."""
    return {
        name: _harmless(value) if isinstance(value, Mapping) else value
        for name, value in raw.items()
        if not name.startswith("_") and name not in _UNWANTED
    }


def _check_layers(raw: Mapping[str, Any], tensors: int, where: str) -> None:
    """Refuse more layers than there are tensors before anybody builds them."""
    for name, value in raw.items():
        if isinstance(value, Mapping):
            _check_layers(value, tensors, where)
        elif name in _LAYERS and isinstance(value, int) and value > tensors:
            what = f"its config.json says {name} = {value}, but it has {tensors} tensors"
            raise CorruptFile(what, where=where, hint="fetch the model again")


def _load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with TemporaryDirectory(prefix="paramdelta-tokenizer-") as place:
        folder = Path(place)
        for name, content in checkpoint.read_companions().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        config = json.dumps(_harmless(checkpoint.config or {}))
        (folder / "config.json").write_text(config, encoding="utf-8")
        try:
            with _quiet():
                tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # transformers raises nearly anything for a tokenizer it can't read
            first = (str(error) or type(error).__name__).splitlines()[0].replace(place, "")
            raise NotACheckpoint(
                f"has no tokenizer that transformers can read: {first}",
                where=checkpoint.location,
                hint="a model is measured together with its tokenizer.json and tokenizer_config.json",
            ) from error
    return tokenizer


def _fill(
    checkpoint: Checkpoint, config: PreTrainedConfig, dtype: str, progress: Progressing
) -> PreTrainedModel:
    """The model of `config` with the weights of `checkpoint`, all of them and no others."""
    import torch
    from transformers.models.auto.auto_factory import _get_model_class
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    where = checkpoint.location
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = f"a model of type {config.model_type!r} does not continue text"
        raise NotACheckpoint(what, where=where)
    kind: type[PreTrainedModel] = _get_model_class(config, MODEL_FOR_CAUSAL_LM_MAPPING)
    strange: set[str] = set()
    with progress(f"load {where}", checkpoint.nbytes) as advance, _quiet():
        try:
            model, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=stored_tensors(checkpoint, dtype, strange, advance),
                dtype=getattr(torch, dtype),
                ignore_mismatched_sizes=True,  # they are told of below, all of them
                output_loading_info=True,
            )
        except PipelineError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = f"transformers can't build a model of it: {first}"
            raise CorruptFile(what, where=where) from error
    _check_tensors(found, where)
    if strange:
        raise CorruptFile(
            f"{len(strange)} tensors hold values that are no finite numbers, {min(strange)!r} first",
            where=where,
            hint="such a model can't work: find where they come from with `cli.py verify`",
        )
    return model


def _check_tensors(found: Mapping[str, Any], where: str) -> None:
    """Raise Mismatch unless every tensor has found its place, and every place its tensor."""
    problems = [
        *(f"{name} is missing" for name in sorted(found["missing_keys"])),
        *(f"{name} has no place in the architecture" for name in sorted(found["unexpected_keys"])),
        *(
            f"{name} has shape {show(tuple(ours))}, and {show(tuple(theirs))} by its config"
            for name, ours, theirs in sorted(found["mismatched_keys"])
        ),
        *map(str, found["error_msgs"]),
    ]
    if problems:
        hint = "its config.json is another model's, or its weights are not complete"
        raise Mismatch(problems, where=where, hint=hint)


def _set_generation(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Let the model generate as its generation_config.json says, if there is one."""
    from transformers import GenerationConfig

    companion = checkpoint.companions.get("generation_config.json")
    if companion is None or not model.can_generate():
        return
    text = checkpoint.read_companions()["generation_config.json"]
    try:
        with _quiet():
            model.generation_config = GenerationConfig.from_dict(json.loads(text))
    except Exception as error:  # checks of any kind
        where = f"{checkpoint.location}/generation_config.json"
        raise CorruptFile(f"makes no sense: {error}", where=where) from error


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model can see at once, as lm-evaluation-harness finds them."""
    config = model.config.get_text_config()
    limits: Sequence[Any] = [
        *(getattr(config, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")),
        tokenizer.model_max_length,
    ]
    return next((n for n in limits if isinstance(n, int) and 0 < n < 1 << 40), DEFAULT_CONTEXT)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and warnings, which are as they were afterwards."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
