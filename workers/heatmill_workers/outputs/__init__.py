"""Where the results of a shard lie, and what they look like."""
