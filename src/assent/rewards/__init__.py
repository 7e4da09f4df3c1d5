"""Where a reward comes from: a reward model's folder, or a Python function."""
