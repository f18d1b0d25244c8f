"""Quantised checkpoints, one file a format: which tensors belong together, and the numbers that they stand for."""
