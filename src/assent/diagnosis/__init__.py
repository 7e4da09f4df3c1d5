"""What happened in a model or a run, and why: explanations, findings and rules. Torch-free."""
