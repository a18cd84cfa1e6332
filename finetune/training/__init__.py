"""Training with sentence-transformers: batches, losses, guard, checkpoints, several processes."""
