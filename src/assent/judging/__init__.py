"""Who says which answer is better: the chat endpoint's client, verdicts, both orders. No torch."""
