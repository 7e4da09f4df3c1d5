"""Completions sampled from a policy, each token with its log-probability and the version that sampled it."""
