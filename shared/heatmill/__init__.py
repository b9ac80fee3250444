"""What callers, API and workers of heatmill agree on; the Python client; the command line."""
