"""Alignment at inference time: best-of-N (also soft and by blocks) with its KL; policy and reference mixed."""
