"""What a GGUF file's tensors and config are called in Hugging Face's models: transformers' own answer.

The config, the names and what is done to values are asked of transformers' GGUF loading, for an empty
model of the file's architecture. No table of ours stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.gguf.header import STRING, Header, stand_in, write_count
from pipeline.errors import CorruptFile, NotACheckpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

_TOKENS = "tokenizer.ggml.tokens"
_ARCHITECTURE = "general.architecture"
_HINT = "use the model's safetensors"


@dataclass(frozen=True)
class Translation:
    """names: Hugging Face's by ggml's. shapes: by Hugging Face's names. skipped: ggml's names of tensors
    that are none of the model's. tied: its tensors that others stand for.
    processor: transformers' own.
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    skipped: frozenset[str]
    tied: frozenset[str]
    processor: Any

    def process(self, name: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """What transformers does to the values of the tensor that ggml calls `name`.

        What is returned raises ValueError where transformers puts them somewhere else.
        """

        def run(weights: NDArray[Any]) -> NDArray[Any]:
            aside: dict[str, Any] = {"tensors": {}}
            done = self.processor.process(
                weights=weights, name=name, tensor_key_mapping=self.names, parsed_parameters=aside
            )
            if done.name != name or aside["tensors"]:
                raise ValueError("it is taken apart or put together with others")
            made: NDArray[Any] = done.weights
            return made

        return run


def translate(header: Header, *, where: str) -> Translation:
    """How the file's tensors are read.

    Raises NotACheckpoint for an architecture that transformers does not read from GGUF, CorruptFile for
    facts that make no sense.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    architecture = header.text(_ARCHITECTURE)
    if architecture is None:
        raise CorruptFile(f"does not say its {_ARCHITECTURE}", where=where, hint=_HINT)
    parsed = _parse(header, architecture, where)
    kind: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    processor = kind(config=dict(parsed))
    try:
        config = _config(parsed, len(header.tensors), where)
        model = _empty_model(config, where)
        names = _names(header, model, processor, _skipped(architecture))
    except (CorruptFile, NotACheckpoint):
        raise
    except Exception as error:  # checks of any kind, in hundreds of classes
        raise CorruptFile(f"its facts make no model: {error}", where=where, hint=_HINT) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    content = _public(json.loads(config.to_json_string(use_diff=False)))
    content["architectures"] = [type(model).__name__]
    return Translation(content, names, shapes, _skipped(architecture), _tied(model), processor)


def _names(header: Header, model: Any, processor: Any, skipped: frozenset[str]) -> dict[str, str]:
    """transformers' names of the file's tensors, by ggml's.

    It looks through every module of the model, builds ggml's table anew for each, and keeps what the
    outer ones have given: of 30 layers that takes 8 s. Mostly the outermost gives them all.
    """
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    find: Any = get_gguf_hf_weights_map
    found: dict[str, str] = find(_Outermost(model), processor)
    if all(each.name in found or each.name in skipped for each in header.tensors):
        return found
    whole: dict[str, str] = find(model, processor)
    return whole


@dataclass(frozen=True)
class _Outermost:
    """A model without the modules in it, as `get_gguf_hf_weights_map` asks for them."""

    model: Any

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    def state_dict(self) -> Mapping[str, Any]:
        """The model's."""
        found: Mapping[str, Any] = self.model.state_dict()
        return found

    def named_children(self) -> tuple[()]:
        """None."""
        return ()


def _parse(header: Header, architecture: str, where: str) -> dict[str, Any]:
    """The config that transformers reads from the facts."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    size, tokens = f"{architecture}.vocab_size", header.facts.get(_TOKENS)
    known = size in header.facts or tokens is None or tokens.item != STRING
    extra = b"" if known or tokens is None else write_count(size, tokens.length)
    try:
        with TemporaryDirectory(prefix="paramdelta-") as folder:
            path = Path(folder) / "header.gguf"
            path.write_bytes(stand_in(header, extra, 1 if extra else 0))
            load: Any = load_gguf_checkpoint
            parsed = load(path)
    except ValueError as error:
        raise NotACheckpoint(
            f"transformers does not read its architecture {architecture!r} from GGUF: {error}",
            where=where,
            hint=_HINT,
        ) from error
    except Exception as error:
        raise CorruptFile(f"its facts make no config: {error!r}", where=where, hint=_HINT) from error
    found: dict[str, Any] = dict(parsed["config"])
    for key, value in parsed["tokenizer"].items():
        if key.endswith("_token_id"):
            found.setdefault(key, value)
    return found


def _config(parsed: Mapping[str, Any], tensors: int, where: str) -> PreTrainedConfig:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = parsed.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise NotACheckpoint(
            f"its model type {kind!r} is none that transformers knows", where=where, hint=_HINT
        )
    config: PreTrainedConfig = CONFIG_MAPPING[kind].from_dict(dict(parsed))
    layers = getattr(config, "num_hidden_layers", None)
    if type(layers) is not int or not 0 <= layers <= tensors:  # before anybody builds them
        raise CorruptFile(
            f"says that it has {layers!r} layers, and has {tensors} tensors", where=where, hint=_HINT
        )
    return config


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what is private to transformers."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _empty_model(config: PreTrainedConfig, where: str) -> Any:
    """A causal language model of that config, without values."""
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise NotACheckpoint(
            f"{config.model_type!r} is no causal language model", where=where, hint=_HINT
        )
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        return kind(config)


def _tied(model: Any) -> frozenset[str]:
    """The tensors of `model` that are other ones by a tie of its config."""
    return frozenset(model.all_tied_weights_keys)


def _skipped(architecture: str) -> frozenset[str]:
    """Names of tensors that ggml makes from a config, and that no model has."""
    import gguf

    kind = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    skip = gguf.MODEL_TENSOR_SKIP.get(kind, []) if kind is not None else []
    return frozenset(f"{gguf.TENSOR_NAMES[each]}.weight" for each in skip)
