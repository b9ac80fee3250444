"""The Python client: submit images, wait, read results."""
