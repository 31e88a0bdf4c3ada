"""The tokenizer that a GGUF file's header describes, as the files that transformers would save.

transformers' own conversion is asked, on a file that has nothing but the header's facts. A header does
not hold all of a tokenizer.json: how text is split before it is merged is only named
(`tokenizer.ggml.pre`), and of a name that transformers does not know it takes GPT-2's way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.checkpoints.files import TOKENIZER, is_companion
from pipeline.checkpoints.gguf.header import Header, stand_in
from pipeline.checkpoints.pickled import MemoryReader

_FACTS = "tokenizer."
_MODEL, _PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_BYTE_LEVEL = "gpt2"
# A model with one of these has a tokenizer of its own.
TOKENIZERS = frozenset(
    {TOKENIZER, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"}
)
_OF_LOADING = ("gguf_file", "is_local", "local_files_only")  # would be saved, and say nothing
_AS_GPT2 = ("gpt-2",)  # what GPT-2's own way of splitting is called


@dataclass(frozen=True)
class Made:
    """files: companions by name. label: where they are from, and what of them is a guess."""

    files: Mapping[str, MemoryReader]
    label: str


def make_tokenizer(header: Header, *, where: str) -> Made | None:
    """The tokenizer of the file at `where`; None if its header has none that transformers can make."""
    if _MODEL not in header.facts:
        return None
    content = _converted(header)
    if TOKENIZER not in content:
        return None
    files = {name: MemoryReader(f"{where} (its {name})", data) for name, data in content.items()}
    return Made(files, "tokenizer from its header" + _guess(header))


def _converted(header: Header) -> dict[str, bytes]:
    """What transformers saves of the tokenizer that it makes; nothing if it makes none."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    # AutoTokenizer would come to the same, and read the model's config first, which takes seconds.
    load: Any = TokenizersBackend.from_pretrained
    with TemporaryDirectory(prefix="paramdelta-") as place:
        source, saved = Path(place) / "header.gguf", Path(place) / "saved"
        source.write_bytes(stand_in(header, b"", 0, whole=_FACTS))
        try:
            made = load(place, gguf_file=source.name, local_files_only=True, trust_remote_code=False)
            made.name_or_path = ""
            for name in _OF_LOADING:
                made.init_kwargs.pop(name, None)
            made.save_pretrained(saved)
        except Exception:  # transformers raises nearly anything; a model without a tokenizer is one, too
            return {}
        found = (path for path in sorted(saved.rglob("*")) if path.is_file())
        content = {path.relative_to(saved).as_posix(): path.read_bytes() for path in found}
    return {name: data for name, data in content.items() if is_companion(name)}


def _guess(header: Header) -> str:
    """What is said of a way of splitting that transformers does not know by its name."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = header.text(_PRE)
    known = (*GGUF_PRE_TOKENIZER_SPLITS, *_AS_GPT2)
    if header.text(_MODEL) != _BYTE_LEVEL or name in known:
        return ""
    which = "no name of a pre-tokenizer" if name is None else f"its pre-tokenizer {name!r}"
    return f", {which} taken for GPT-2's"
