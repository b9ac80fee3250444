# Everything a developer runs. Two of these are enough on a fresh machine that has Python 3.11: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Other environments of this machine share the packages' files.
export UV_LINK_MODE ?= hardlink

.PHONY: help setup demo up test verify chaos simulate bench bench-quick check format methods lock clean

help:     ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: .venv/.ready   ## .venv with the locked versions

demo: setup   ## the whole service, four photos, and a page that shows their heatmaps
	exec $(BIN)/heatmill demo

up: setup   ## the whole service on this machine, until Ctrl-C
	exec $(BIN)/heatmill up

# Two processes, each with its own Redis and store: many tests wait for real processes, and a machine has two cores.
test: check   ## all that CI runs: the checks, then the tests
	exec env OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

verify: setup   ## what takes too long for `test`: matrices over architectures
	exec env OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist load -m verify

chaos: setup  ## everything breaks at random: make chaos SEED=7 MINUTES=2
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

simulate: setup  ## all roles in one process on a stepped clock, with faults from a seed: make simulate SEEDS=1000, or SEED=17 for its trace
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS))

bench: setup   ## every benchmark, against the reference libraries and the limits: under 15 minutes on two cores
	$(BIN)/python -m benchmarks

bench-quick: setup   ## the same with fewer images and sizes: under 5 minutes
	$(BIN)/python -m benchmarks --quick

# What is quick to say no comes first.
check: setup   ## format, lint, import rules, types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy

format: setup   ## format and repair what can be repaired
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

methods: setup   ## write what is made from code: methods.json, models.json, the labels and openapi.json
	$(BIN)/python -m heatmill_workers.export
	$(BIN)/python -m heatmill_api

lock: setup   ## requirements.lock from pyproject.toml, keeping versions that still fit
	$(BIN)/uv pip compile pyproject.toml --universal --all-extras --generate-hashes --python-version 3.11 --no-header --no-emit-index-url --no-annotate -q -o requirements.lock

clean:    ## remove what the targets above made, but for the data of `up`
	rm -rf .venv dist heatmill-demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "heatmill needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --build-constraint requirements.lock --editable .
	touch $@
