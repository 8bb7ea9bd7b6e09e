"""Common parts of training: optimiser and checkpoints."""
