"""A job's parts and records, without the store's encoding or Redis."""
