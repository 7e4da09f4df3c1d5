"""Samples completions from a policy. Tokens have their log-probabilities; rollouts name the policy's version."""
