"""What every test may use: one real Redis and one real object store for the whole session."""

pytest_plugins = ["tests.services.fixtures"]
