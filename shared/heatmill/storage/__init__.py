"""The object store: the truth about every job."""
