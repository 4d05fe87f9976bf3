"""What does Numba compute in place of torch? Extra `numba`; imported only by whoever asks for it."""
