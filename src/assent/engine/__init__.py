"""A trainable model and what its updates need: devices, processes, optimiser, micro-batches, checkpoints."""
