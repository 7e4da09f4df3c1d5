"""Alignment at inference time: best-of-N and its exact KL."""
