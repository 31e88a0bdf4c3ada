"""A container as the store: compute, apply and a batch from Python, then list and verify.

    .venv/bin/python examples/azure_workflow.py

The account and the container come from the environment or `.env`, as for every command: AZURE_STORAGE_*
with AZURE_STORAGE_CONTAINER_NAME (see `.env.example`). The models are those of examples/family; the
weights that are made go to the container, block by block, and never touch the disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from dotenv import load_dotenv

from pipeline import apply, compute, list_store, run_batch, verify
from pipeline.batch.config import parse_config

FAMILY = Path(__file__).resolve().parent / "family"
DELTA = "deltas/v1.safetensors"


def main() -> None:
    """Run the example in the container that the environment names."""
    load_dotenv()
    store = f"az://{os.environ['AZURE_STORAGE_CONTAINER_NAME']}"
    base, post, new_base = (str(FAMILY / name) for name in ("base-v1", "post-v1", "base-v2"))

    computed = compute(base, post, DELTA, store=store, overwrite=True)
    print(f"{computed.changed:,} of {computed.elements:,} weights changed")

    moved = apply(new_base, [DELTA], f"{store}/models/post-v2", store=store, overwrite=True)
    print(f"{moved.case}: {len(moved.files)} files in {moved.output}")

    # As a batch: half of the change; and all of it on its own base, which gives post back.
    steps = [
        {"id": "half", "base": new_base, "deltas": [f"{DELTA}=0.5"]},
        {"id": "restored", "base": base, "deltas": [DELTA]},
    ]
    config = {
        "defaults": {"store": store, "overwrite": True},
        "steps": [{"run": "apply", "output": f"{store}/models/{s['id']}", **s} for s in steps],
        "report": f"{store}/report.json",
    }
    report = run_batch(parse_config(json.dumps(config).encode(), where="the batch"))
    print(f"batch: {', '.join(f'{step.id} {step.status}' for step in report.steps)}")

    for item in list_store(store=store).items:
        print(f"{item.kind:6} {item.nbytes:>10,}  {item.name}")

    verify(DELTA, base=base, post=post, store=store)
    restored = verify(f"{store}/models/restored")
    print(f"verified, post restored bit for bit: {restored.fingerprint == computed.post_fingerprint}")


if __name__ == "__main__":
    main()
