"""Hugging Face checkpoints, read and written tensor by tensor, with what belongs to them."""
