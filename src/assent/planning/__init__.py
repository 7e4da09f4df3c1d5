"""What a run will need before it starts: memory, time, lengths, first settings. Torch-free."""
