"""From the Hub to Azure: a delta of two models, and from it a new model, both in a container.

    .venv/bin/python examples/hub_to_azure.py org/base-v1 org/post-v1 org/base-v2

Models may be pinned, as org/name@revision. The account and the container come from the environment or
`.env`: AZURE_STORAGE_* with AZURE_STORAGE_CONTAINER_NAME, and HF_TOKEN for gated and private models.
"""

from __future__ import annotations

import os
import sys

from dotenv import load_dotenv

from pipeline import apply, compute, verify


def main(base: str, post: str, new_base: str) -> None:
    """Write post - base, and new_base with it, to the container that the environment names."""
    load_dotenv()
    store = f"az://{os.environ['AZURE_STORAGE_CONTAINER_NAME']}"
    name = post.partition("@")[0].rpartition("/")[2]
    delta, model = f"deltas/{name}.safetensors", f"{store}/models/{name}-moved"

    computed = compute(base, post, delta, store=store, overwrite=True)
    print(f"{delta}: {computed.changed:,} of {computed.elements:,} weights changed")

    moved = apply(new_base, [delta], model, store=store, overwrite=True)
    print(f"{model}: {moved.case}")

    checked = verify(model)
    print(f"verified: {checked.tensors} tensors, fingerprint {checked.fingerprint[:16]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
