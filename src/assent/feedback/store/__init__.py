"""The store of preferences: a database of prompts, completions, annotators and their judgements."""
