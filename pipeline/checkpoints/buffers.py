"""Names that checkpoints have and their architectures do not need: what code computes anew.

Older versions of transformers saved tables that a model makes for itself, such as the frequencies of its
rotary positions or its causal mask. They say how the model is configured, not what it has learned, so a
difference of them means nothing on another base.
"""

from __future__ import annotations

from collections.abc import Sequence

# By the last part of the name. None of these is a parameter in any architecture of transformers 5.23,
# which drops them by `_keys_to_ignore_on_load_unexpected` or makes them with `persistent=False`.
_COMPUTED = {
    "inv_freq", "original_inv_freq", "cos_cached", "sin_cached", "position_ids", "masked_bias",
    "token_type_ids",
}  # fmt: skip
_MASKS = ("attn.bias", "attention.bias")  # of GPT-2, GPT-Neo and GPT-NeoX: 1 × 1 × positions × positions


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of this name and shape is computed, never learned."""
    if name.rpartition(".")[2] in _COMPUTED:
        return True
    is_square = len(shape) == 4 and tuple(shape[:2]) == (1, 1) and shape[2] == shape[3]
    return is_square and name.endswith(_MASKS)
