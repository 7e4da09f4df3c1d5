"""What each command does, as a function of its configuration. `functions.py` has the public functions."""
