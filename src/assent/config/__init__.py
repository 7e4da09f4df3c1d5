"""Torch-free configuration: one class per command, and the declarations of every loss."""
