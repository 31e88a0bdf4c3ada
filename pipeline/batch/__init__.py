"""JSON configs of chained steps: read, ordered, run, reported."""
