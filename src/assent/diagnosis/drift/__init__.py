"""What a deployed model's logs say beside a baseline: what moved, and by how much. Torch-free."""
