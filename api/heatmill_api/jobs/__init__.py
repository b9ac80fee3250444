"""Jobs: read, validated, accepted, started; read again, listed, cancelled, retried, deleted."""
