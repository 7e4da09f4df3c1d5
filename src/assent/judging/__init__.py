"""Judges: the client of a chat endpoint, verdicts on two answers in both orders, safety. Torch-free."""
