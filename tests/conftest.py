"""What every test may use: one real Redis and one real object store for the whole session."""

import signal

pytest_plugins = ["tests.services.fixtures"]

# A runner that was started in the background ignores Ctrl-C, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
