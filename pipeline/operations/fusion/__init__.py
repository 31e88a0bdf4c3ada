"""Ways to put several deltas together: which there are, what they need to know, and where they apply."""
