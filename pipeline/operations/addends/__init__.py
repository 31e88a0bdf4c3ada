"""What a sum adds to a base: deltas that are stored, and differences that are made on the way."""
