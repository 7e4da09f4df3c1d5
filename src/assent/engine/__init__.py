"""One trainable model and everything an update needs: devices, processes, optimiser, micro-batches, checkpoints."""
