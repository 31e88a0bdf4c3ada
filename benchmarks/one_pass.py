"""The job with the Python function in one pass: the difference is used, and not written.

python benchmarks/one_pass.py BASE POST BASE2 OUTPUT [DIGESTS]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline import Difference, apply


def main(base: str, post: str, base2: str, output: str, digests: str = "off") -> None:
    """output = base2 + (post - base). digests: where those of the models are kept."""
    apply(base2, [Difference(base, post)], output, digest_cache=digests)


if __name__ == "__main__":
    main(*sys.argv[1:])
