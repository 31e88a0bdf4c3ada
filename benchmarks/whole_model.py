"""The job as most scripts do it: three whole models in memory, one loop over parameters, one save.

    python benchmarks/whole_model.py BASE POST BASE2 OUTPUT

Right to the last bit: float32 per tensor, rounded once. What it costs is memory and time.
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main(base: str, post: str, base2: str, output: str) -> None:
    """output = base2 + (post - base)."""
    old, tuned, new = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16) for path in (base, post, base2)
    )
    befores, afters = dict(old.named_parameters()), dict(tuned.named_parameters())
    for name, weight in new.named_parameters():
        weight.copy_(weight.float() + (afters[name].float() - befores[name].float()))
    new.save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
