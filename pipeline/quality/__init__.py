"""Whether a model works: what is measured of it, and the conditions that a release must meet."""
