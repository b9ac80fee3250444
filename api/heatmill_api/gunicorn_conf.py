"""How gunicorn serves the API. The address is given on the command line."""

# Buffers requests and answers, so that slow clients hold no threads.
worker_class = "heatmill_api.waitress_worker.WaitressWorker"
workers = 2
# A request waits for the object store, and a long poll for a worker.
threads = 32

# Patience with a worker's heartbeat, not with a request.
timeout = 30
# On a restart, requests may end; above the longest `?wait=`.
graceful_timeout = 60

# Since gunicorn 25.1 each server opens a socket for commands unless told not to.
control_socket_disable = True

accesslog = None
