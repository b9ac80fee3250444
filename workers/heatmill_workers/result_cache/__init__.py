"""Results by content: what an entry's key is made of."""
