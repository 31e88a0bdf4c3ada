"""GGUF files, the format of llama.cpp, as checkpoints: every tensor is made on the way."""
