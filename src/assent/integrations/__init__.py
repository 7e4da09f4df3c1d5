"""Assent in other people's programs."""
