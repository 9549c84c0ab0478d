"""Real clients against a real agent: the matrix, and replays of those that cannot be had."""
