"""What to do with the data at hand: which method, will it fit, how long, what will go wrong. Nothing is trained."""
