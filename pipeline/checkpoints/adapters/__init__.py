"""PEFT's LoRA adapters: read with suspicion, and merged into their base on the way."""
