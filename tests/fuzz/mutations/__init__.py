"""What a hostile delta may be like. Each function changes a draft; how it ends is for the runner to see.

A function's name says what is done. Those in `HEAVY` make files or contents of many megabytes, and are
drawn seldom. `BLUNT` ones are damage, not forgery: nobody mends the digests afterwards.
"""

from tests.fuzz.mutations import chunks, companions, header, manifest, whole
from tests.fuzz.mutations.registry import BLUNT, HEAVY, MUTATIONS

__all__ = ["BLUNT", "HEAVY", "MUTATIONS", "chunks", "companions", "header", "manifest", "whole"]
