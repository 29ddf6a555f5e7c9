"""A training that no study asked for: what `train` does."""
