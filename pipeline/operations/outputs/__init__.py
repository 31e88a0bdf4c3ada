"""What operations write: deltas, model folders, and the files that say where they come from."""
