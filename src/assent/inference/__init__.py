"""Alignment at inference time: best-of-N with its KL, soft and by blocks; policy and reference mixed at decoding."""
