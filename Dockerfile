# One file, three images: docker build --target api|control|explain .
# Versions and hashes come from requirements.lock, those of the build backend too; each image holds one role's extra.
ARG PYTHON=python:3.11.15-slim-bookworm

FROM ${PYTHON} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/heatmill
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/heatmill
WORKDIR /src
COPY pyproject.toml requirements.lock ./

FROM build AS wheel
COPY README.md LICENSE ./
COPY shared shared
COPY api api
COPY workers workers
RUN uv build --wheel --build-constraint requirements.lock --out-dir /dist

# What changes rarely, the dependencies, comes before what changes often.
FROM build AS build-api
RUN --mount=type=cache,target=/root/.cache/uv uv pip install -r pyproject.toml --extra api -c requirements.lock
COPY --from=wheel /dist /dist
RUN uv pip install --no-deps /dist/*.whl

FROM build AS build-control
RUN --mount=type=cache,target=/root/.cache/uv uv pip install -r pyproject.toml --extra control -c requirements.lock
COPY --from=wheel /dist /dist
RUN uv pip install --no-deps /dist/*.whl

FROM build AS build-explain
RUN --mount=type=cache,target=/root/.cache/uv uv pip install -r pyproject.toml --extra workers -c requirements.lock
COPY --from=wheel /dist /dist
RUN uv pip install --no-deps /dist/*.whl

FROM ${PYTHON} AS runtime
# The cache is where torchvision keeps what it downloads; everything else that is written goes to /tmp.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp heatmill \
    && install --directory --owner 10001 --group 10001 /var/cache/heatmill
ENV PATH=/opt/heatmill/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Empty, and not ours to write: Celery imports what lies in the folder where it starts.
WORKDIR /app
USER 10001:10001
# Each command is in exec form: it is process 1, so that SIGTERM reaches it.

FROM runtime AS api
COPY --from=build-api /opt/heatmill /opt/heatmill
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); exit(c.getresponse().status != 200)"]
CMD ["gunicorn", "-c", "python:heatmill_api.gunicorn_conf", "--bind", "0.0.0.0:8000", "heatmill_api.wsgi:app"]

FROM runtime AS control
COPY --from=build-control /opt/heatmill /opt/heatmill
COPY --chmod=755 docker/worker-alive /usr/local/bin/worker-alive
HEALTHCHECK --interval=2m --timeout=30s --start-period=1m --retries=3 CMD ["worker-alive", "control"]
CMD ["celery", "-A", "heatmill_workers.app:control", "worker", "--queues", "control", \
     "--loglevel", "INFO", "--without-gossip", "--without-mingle"]

FROM runtime AS explain
COPY --from=build-explain /opt/heatmill /opt/heatmill
COPY --chmod=755 docker/worker-alive /usr/local/bin/worker-alive
# The CUDA libraries come with torch; the driver comes from the host.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility TORCH_HOME=/var/cache/heatmill/torch \
    HEATMILL_WEIGHTS_DIR=/var/cache/heatmill/weights
HEALTHCHECK --interval=2m --timeout=30s --start-period=1m --retries=3 CMD ["worker-alive", "explain"]
CMD ["celery", "-A", "heatmill_workers.app:explain", "worker", "--queues", "explain", \
     "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
