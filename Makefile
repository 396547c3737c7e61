# Everything lives in .venv, installed from the locks in envs/; nothing is installed twice.
# A torch that is already in .venv is kept: put the CPU or CUDA build of your choice there first.

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
# connection-pool, which Snakemake needs, is published as source only.
LOCKED := $(PIP) --no-deps --require-hashes --only-binary :all: --no-binary connection-pool
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
SNAKEFILES := Snakefile workflow/Snakefile workflow/rules

export OMP_NUM_THREADS := 1

.PHONY: help setup setup-dev setup-slurm demo run plan report test test-slurm lint format lock bench docs publish

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/setup.stamp ## install snapdyn into .venv

setup-dev: .venv/setup-dev.stamp ## and what tests and checks need

setup-slurm: .venv/setup-slurm.stamp ## and what a SLURM cluster needs: docs/cluster.md

demo: setup ## every paper at small size, without network
	$(PY) -m snapdyn.launch $(ARGS) --configfile config/demo.yaml
	$(PY) -m snapdyn.report $(ARGS) --configfile config/demo.yaml
	@echo "Done. Open results/demo/report.html; everything in it is in results/demo."

run: setup ## Snakemake with crash care: make run ARGS="--cores 4 jko"
	$(PY) -m snapdyn.launch $(ARGS)

plan: setup ## what would run, at what cost, and what is missing: make plan ARGS="--cores 4 jko"
	$(PY) -m snapdyn.plan $(ARGS)

report: setup ## results/<run>/report.html, one file: make report ARGS="--configfile config/demo.yaml"
	$(PY) -m snapdyn.report $(ARGS)

test: lint ## all checks and tests: make test ARGS=tests/test_run.py
	$(PY) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-slurm: setup-dev ## the workflow on a real SLURM of one node, installed by apt where it may
	$(PY) -m pytest tests/slurm $(ARGS)

lint: setup-dev ## style of Python and of Snakemake
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m snakefmt --check $(SNAKEFILES)
	$(PY) -m snakemake --lint

format: setup-dev ## mend what style can be mended by machine
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) -m snakefmt $(SNAKEFILES)

bench: setup-dev ## hot paths beside their peers, as parquet
	$(PY) tests/bench/run.py $(ARGS)

lock: setup-dev ## renew the locks within the bounds of envs/*.in: make lock ARGS=--upgrade
	cd envs && ../.venv/bin/$(COMPILE) $(ARGS) --override overrides.txt requirements.in -o requirements.txt
	cd envs && ../.venv/bin/$(COMPILE) $(ARGS) --override overrides.txt requirements-dev.in -o requirements-dev.txt
	cd envs && ../.venv/bin/$(COMPILE) $(ARGS) --override overrides.txt requirements-slurm.in -o requirements-slurm.txt

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "snapdyn needs Python 3.11 or newer as '$(PYTHON)'; name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  rm -rf .venv; echo "could not create .venv; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

.venv/setup.stamp: envs/requirements.txt envs/torch.txt pyproject.toml | .venv/bin/python
	$(LOCKED) -r envs/requirements.txt
	$(PY) -c "import torch" 2>/dev/null || $(PIP) -r envs/torch.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/setup-dev.stamp: .venv/setup.stamp envs/requirements-dev.txt
	$(LOCKED) -r envs/requirements-dev.txt
	@touch $@

.venv/setup-slurm.stamp: .venv/setup.stamp envs/requirements-slurm.txt
	$(LOCKED) -r envs/requirements-slurm.txt
	@touch $@

docs: setup ## regenerate the configuration page from the schema
	$(PY) -m snapdyn.config > docs/configuration.md

publish: setup ## keep what full runs measured in docs/full-run
	$(PY) -m snapdyn.publish $(ARGS)
