"""The pipeline from Python: compute a delta, look at it, move it to the next base model.

    .venv/bin/python examples/basic_usage.py [FOLDER]

Everything is written below FOLDER (default: build/basic_usage), from the models in examples/family.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file

from pipeline import (
    apply,
    apply_delta,
    calculate_delta,
    combine_deltas,
    compute,
    open_checkpoint,
    open_delta,
)

FAMILY = Path(__file__).resolve().parent / "family"


def main(folder: Path) -> None:
    """Run the example, writing below `folder`."""
    base, post, new_base = (str(FAMILY / name) for name in ("base-v1", "post-v1", "base-v2"))
    delta = str(folder / "delta-v1.safetensors")

    computed = compute(base, post, delta, overwrite=True)
    print(f"{computed.changed:,} of {computed.elements:,} weights changed")

    with open_checkpoint(post) as checkpoint, open_delta(delta) as opened:
        print(f"{checkpoint.nbytes:,} bytes of weights, {opened.nbytes:,} of delta")
        print(f"made on {opened.manifest.base.location}")

    # On its own base the delta gives post back, bit for bit; on another it transfers.
    restored = apply(base, [delta], str(folder / "restored-v1"), overwrite=True)
    print(f"{restored.case}: {restored.fingerprint == computed.post_fingerprint}")
    moved = apply(new_base, [(delta, 1.0)], str(folder / "post-v2"), overwrite=True)
    print(f"{moved.case}: {len(moved.files)} files in {moved.output}")

    # The same arithmetic on state dicts in memory; the tensor that grew is left out here.
    old = load_file(FAMILY / "base-v1" / "model.safetensors")
    trained = load_file(FAMILY / "post-v1" / "model.safetensors")
    same = [name for name in old if old[name].shape == trained[name].shape]
    old, trained = ({name: side[name] for name in same} for side in (old, trained))
    change = calculate_delta(trained, old)
    half = combine_deltas([change, change], weights=[0.25, 0.25])
    halfway = apply_delta(old, half)
    print(f"{len(halfway)} tensors moved half of the way in memory")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/basic_usage"))
