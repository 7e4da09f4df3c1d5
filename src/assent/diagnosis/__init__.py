"""What went on in a model or a run, and why: numbers taken apart. Torch-free."""
