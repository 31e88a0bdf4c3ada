"""What measuring takes beside the models: peak memory of bits per byte and KL, vocabulary of 128k.

    .venv/bin/python benchmarks/evaluate_memory.py [--tokens 100000] [--hidden 64] [--json FILE]

Two random Llama models are made on the spot (bfloat16, embedding and head untied), and text of words
that are one token each. One process, started for it, measures a model alone, another the model against
the reference; the peak is the kernel's figure of the whole process, interpreter and libraries included,
and is shown with what the process took once transformers was imported and the models' bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import machine
from processes import run

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 128_256
CONTEXT = 2048
LIMIT_BYTES = 500_000_000  # beside the models

_MAKE = """
import sys
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder, vocabulary, context, hidden, tokens = sys.argv[1], *map(int, sys.argv[2:])
words = {f"w{n}": n for n in range(vocabulary)}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", unk_token="w0")
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context, dtype="bfloat16",
    tie_word_embeddings=False, initializer_range=0.1, eos_token_id=0, bos_token_id=0,
)
model = LlamaForCausalLM(config).to(torch.bfloat16)
for name in ("reference", "model"):
    model.save_pretrained(f"{folder}/{name}")
    fast.save_pretrained(f"{folder}/{name}")
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.02 * torch.randn_like(each))
generator = torch.Generator().manual_seed(1)
numbers = torch.randint(vocabulary, (tokens,), generator=generator).tolist()
documents = [numbers[at : at + 3000] for at in range(0, tokens, 3000)]
text = "\\n\\f\\n".join(" ".join(f"w{n}" for n in document) for document in documents)
open(f"{folder}/text.txt", "w").write(text)
"""

_MEASURE = """
import json, os, resource, sys, time

folder, what = sys.argv[1:]
import torch, transformers
from transformers import AutoTokenizer, LlamaForCausalLM
from pipeline.quality.subject import load_subject
from pipeline.quality.texts import read_texts
from pipeline.quality.likelihood import measure_text, text_figures
from pipeline.quality.divergence import divergence_figures, measure_divergence

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

imported = peak()
texts = read_texts(f"{folder}/text.txt")
model = load_subject(f"{folder}/model")
nbytes, figures = model.nbytes, {}
reference = None
if what == "kl":
    reference = load_subject(f"{folder}/reference", beside=[model])
    nbytes += reference.nbytes
loaded, begin = peak(), time.perf_counter()
if reference is None:
    figures = text_figures(measure_text(model, texts))
else:
    figures = divergence_figures(measure_divergence(model, reference, texts))
print(json.dumps({
    "imported": imported, "models": nbytes, "loaded": loaded, "seconds": time.perf_counter() - begin,
    "figures": {name: (f.value, f.count) for name, f in figures.items() if ":" not in name},
}))
"""


def measure(folder: Path, what: str) -> dict[str, object]:
    """Run one measurement in a process of its own; what it printed, and its peak beside the models."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    usage, text = run([sys.executable, "-c", _MEASURE, folder, what], folder=folder, env=env)
    found = json.loads(text.splitlines()[-1])
    beside = usage.peak_bytes - found["models"]
    return {"what": what, "peak": usage.peak_bytes, "beside": beside, "cpu": usage.cpu, **found}


def main() -> None:
    """Read the command line, make the models, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="evaluate-memory-") as place:
        folder = Path(place)
        sizes = [VOCABULARY, CONTEXT, options.hidden, options.tokens]
        command = [sys.executable, "-c", _MAKE, folder, *map(str, sizes)]
        run(command, folder=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
        results = [measure(folder, what) for what in ("kl", "text")]
    for result in results:
        numbers = {k: f"{v / 1e6:,.0f} MB" for k, v in result.items() if k in _SHOWN}
        print(result["what"], *(f"{name} {text}" for name, text in numbers.items()), sep="  ")
        print(f"  {result['seconds']:.1f} s, {result['cpu']:.1f} s of CPU, {result['figures']}")
        verdict = "within" if result["beside"] <= LIMIT_BYTES else "OVER"
        print(f"  beside the models {verdict} {LIMIT_BYTES / 1e6:.0f} MB")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2))


_SHOWN = ("peak", "beside", "imported", "models", "loaded")

if __name__ == "__main__":
    main()
