# One file, three images: docker build --target api|control|explain .
# The explain image without CUDA, a tenth of the size: docker build --target explain --build-arg TORCH=cpu .
# Versions and hashes come from requirements.lock, those of the build backend too; each image holds one role's extra.
ARG PYTHON=python:3.11.15-slim-bookworm
ARG TORCH=cuda

FROM ${PYTHON} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy VIRTUAL_ENV=/opt/heatmill
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/heatmill
COPY --chmod=755 docker/split-lock docker/add-layer /usr/local/bin/
WORKDIR /src

# A layer is built again where the file that decides it has another content: a release leaves the packages alone.
FROM build AS lock
COPY pyproject.toml requirements.lock ./
RUN split-lock

FROM build AS wheel
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY shared shared
COPY api api
COPY workers workers
RUN uv build --wheel --build-constraint requirements.lock --out-dir /dist

FROM build AS torch-cuda
COPY --from=lock /src/torch.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps --require-hashes -r torch.lock

FROM build AS torch-cpu
COPY --from=lock /src/torch-cpu.txt ./
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps --torch-backend cpu -r torch-cpu.txt

# hadolint ignore=DL3006
FROM torch-${TORCH} AS torch

FROM build AS packages-api
COPY --from=lock /src/pyproject.toml /src/dependencies.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv pip install -r pyproject.toml --extra api -c dependencies.lock

FROM build AS packages-control
COPY --from=lock /src/pyproject.toml /src/dependencies.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv pip install -r pyproject.toml --extra control -c dependencies.lock

FROM torch AS packages-explain
WORKDIR /src
COPY --from=lock /src/pyproject.toml /src/dependencies.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    add-layer /layer uv pip install -r pyproject.toml --extra zoo -c dependencies.lock

FROM packages-api AS wheel-api
COPY --from=wheel /dist /dist
RUN add-layer /layer uv pip install --no-deps /dist/*.whl

FROM packages-control AS wheel-control
COPY --from=wheel /dist /dist
RUN add-layer /layer uv pip install --no-deps /dist/*.whl

FROM packages-explain AS wheel-explain
COPY --from=wheel /dist /dist
RUN add-layer /layer uv pip install --no-deps /dist/*.whl

FROM ${PYTHON} AS runtime
# The cache is where weights lie that are downloaded; everything else that is written goes to /tmp. An operator's
# models.toml is mounted over the empty one.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp heatmill \
    && install --directory --owner 10001 --group 10001 /var/cache/heatmill \
    && install --directory /etc/heatmill && touch /etc/heatmill/models.toml
ENV PATH=/opt/heatmill/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEATMILL_MODELS_FILE=/etc/heatmill/models.toml
# Empty, and not ours to write: Celery imports what lies in the folder where it starts.
WORKDIR /app
USER 10001:10001
# Each command is in exec form: it is process 1, so that SIGTERM reaches it; `stoppable` listens from the beginning.

FROM runtime AS api
COPY --link --from=packages-api /opt/heatmill /opt/heatmill
COPY --link --from=wheel-api /layer/ /
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "heatmill.stoppable", "gunicorn", "-c", "python:heatmill_api.gunicorn_conf", \
     "--bind", "0.0.0.0:8000", "heatmill_api.wsgi:app"]

FROM runtime AS control
COPY --link --from=packages-control /opt/heatmill /opt/heatmill
COPY --link --from=wheel-control /layer/ /
COPY --chmod=755 docker/worker-alive /usr/local/bin/worker-alive
ENV HEATMILL_ALIVE_FILE=/tmp/heatmill-alive
HEALTHCHECK --interval=20s --timeout=5s --start-period=1m --retries=3 CMD ["worker-alive"]
CMD ["python", "-m", "heatmill.stoppable", "celery", "-A", "heatmill_workers.celery_app.apps:control", "worker", \
     "--queues", "control", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]

FROM runtime AS explain
# By how rarely they change: CUDA and PyTorch, the other packages, heatmill.
COPY --link --from=torch /opt/heatmill /opt/heatmill
COPY --link --from=packages-explain /layer/ /
COPY --link --from=wheel-explain /layer/ /
COPY --chmod=755 docker/worker-alive /usr/local/bin/worker-alive
# The CUDA libraries come with torch; the driver comes from the host.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility HEATMILL_ALIVE_FILE=/tmp/heatmill-alive \
    TORCH_HOME=/var/cache/heatmill/torch HF_HOME=/var/cache/heatmill/huggingface \
    HEATMILL_WEIGHTS_DIR=/var/cache/heatmill/weights
HEALTHCHECK --interval=20s --timeout=5s --start-period=1m --retries=3 CMD ["worker-alive"]
CMD ["python", "-m", "heatmill.stoppable", "celery", "-A", "heatmill_workers.celery_app.apps:explain", "worker", \
     "--queues", "explain", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
