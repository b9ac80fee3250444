"""What Redis coordinates."""
