"""From a checkpoint's files to a model and a tokenizer of transformers, without running what they say.

Only architectures of transformers itself are built. Its own rules tie, rename and merge tensors; what
it would only warn of, a tensor that is missing or has no place, is an error here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.alignment import show
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.files import read_all
from pipeline.errors import CorruptFile, Mismatch, NotACheckpoint, PipelineError
from pipeline.progress import Progressing
from pipeline.quality.weights import stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What a config may say that makes transformers fetch or replace code, or read other files.
_UNWANTED = (
    "auto_map", "custom_pipelines", "attn_implementation", "experts_implementation", "fusion_config",
    "kernel_config", "use_kernels", "transformers_weights", "quantization_config",
)  # fmt: skip
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def build_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """The config of a checkpoint, as the class of its model type reads it.

    Raises NotACheckpoint for a model that transformers does not know by itself, CorruptFile for a config
    that makes no sense.
    """
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


def tokenizer_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """All that `load_tokenizer` reads, by name: two models with the same files have one tokenizer."""
    config = json.dumps(_harmless(checkpoint.config or {}), sort_keys=True)
    return {**checkpoint.read_companions(), "config.json": config.encode()}


def load_tokenizer(files: Mapping[str, bytes], *, where: str) -> PreTrainedTokenizerBase:
    """The tokenizer that `files`, of the model at `where`, make. Raises NotACheckpoint if none."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    with TemporaryDirectory(prefix="paramdelta-tokenizer-") as place:
        folder = Path(place)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        try:
            with quiet():
                tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # transformers raises nearly anything for a tokenizer it can't read
            first = (str(error) or type(error).__name__).splitlines()[0].replace(place, "")
            raise NotACheckpoint(
                f"has no tokenizer that transformers can read: {first}",
                where=where,
                hint="a model is measured together with its tokenizer.json and tokenizer_config.json",
            ) from error
    return tokenizer


def build_model(
    checkpoint: Checkpoint, config: PreTrainedConfig, dtype: str, progress: Progressing
) -> PreTrainedModel:
    """The model of `config` with the weights of `checkpoint`, all of them and no others.

    dtype: by torch's name. Raises Mismatch if they are not the architecture's, CorruptFile if a value is
    not finite or no model can be made of them, NotACheckpoint for a model that does not continue text.
    """
    import torch

    kind = _model_class(config, checkpoint.location)
    where = checkpoint.location
    strange: set[str] = set()
    with progress(f"load {where}", checkpoint.nbytes) as advance, quiet():
        try:
            made, found = kind.from_pretrained(
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
            hint="such a model can't work: fetch it again, or look at how it was made",
        )
    model: PreTrainedModel = made
    return model


def _model_class(config: PreTrainedConfig, where: str) -> Any:
    """Which of transformers' classes continues text with this config; of several, the one it names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = f"a model of type {config.model_type!r} does not continue text"
        raise NotACheckpoint(what, where=where)
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    kinds = found if isinstance(found, list | tuple) else [found]
    named = [kind for kind in kinds if kind.__name__ in (config.architectures or ())]
    return (named or kinds)[0]


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


def set_generation(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Let the model generate as its generation_config.json says, if there is one. Raises CorruptFile."""
    from transformers import GenerationConfig

    companion = checkpoint.companions.get("generation_config.json")
    if companion is None or not model.can_generate():
        return
    text = read_all(companion)
    try:
        with quiet():
            model.generation_config = GenerationConfig.from_dict(json.loads(text))
    except Exception as error:  # checks of any kind
        where = f"{checkpoint.location}/generation_config.json"
        raise CorruptFile(f"makes no sense: {error}", where=where) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars and warnings, which are as they were afterwards."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging  # most of it has no types
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
