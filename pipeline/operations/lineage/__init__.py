"""Whether a new base descends from the one that a delta was made on, and how far they are apart."""
