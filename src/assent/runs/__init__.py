"""The run folder: what a run writes, and reading it back. Torch-free."""
