"""Faults of training, made on purpose in tiny runs: what the doctor's rules are measured with."""
