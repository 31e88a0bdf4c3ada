"""Where bytes come from and go to: local files, Azure containers, the Hub. Knows nothing of models."""
