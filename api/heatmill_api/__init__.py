"""HTTP in, jobs out. Never imports torch, never holds a batch in memory."""
