"""The run of one shard: what is shared by its steps."""
