"""Azure Blob containers as stores: blocks staged and committed, folders claimed and published."""
