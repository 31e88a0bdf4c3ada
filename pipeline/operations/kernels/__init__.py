"""What one worker does with one slice, for each operation that computes, and what it finds out."""
