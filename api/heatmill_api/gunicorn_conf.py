"""How gunicorn serves the API. The address is given on the command line."""

# Threads, because a request waits for the object store, and a long poll for a worker.
worker_class = "gthread"
workers = 2
threads = 16

# On gthread this is the patience with a worker's heartbeat, not with a request: a long poll may take all of it.
timeout = 30
# On a restart, requests may end; above the longest `?wait=`.
graceful_timeout = 60

# Fresh processes now and then; the jitter keeps them from going all at once.
max_requests = 5000
max_requests_jitter = 500

# An item's id stands in a heatmap's path, each of its bytes perhaps as %XX; this is the most that gunicorn can be told.
limit_request_line = 8190

# Since gunicorn 25.1 each server opens a socket for commands unless told not to.
control_socket_disable = True

accesslog = None
