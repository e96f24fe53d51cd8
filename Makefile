# Two commands for a fresh machine: `make demo` and `make test`.
# Needed: make, Python 3.11 or newer with venv, and a package index that pip can reach.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Set PYTHON to choose the interpreter; otherwise the first suitable one of this list is taken.
PYTHON ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python)
SUITABLE := import ensurepip, sys, venv; sys.exit(not sys.version_info >= (3, 11))
# More arguments for pytest, for example ARGS="-m 'not slow' -x".
ARGS ?=

.PHONY: help setup demo test lint bench bench-check clean

help:
	@echo "make setup   create $(VENV) and install the pinned packages (once)"
	@echo "make demo    run scenarios/digits.yaml and write a report"
	@echo "make test    run the tests            (ARGS=... goes to pytest)"
	@echo "make lint    ruff, ruff format, mypy"
	@echo "make bench   run the speed benchmarks into docs/results.md (QUICK=--quick: small)"
	@echo "make bench-check   compare the speed ratios with benchmarks/baseline.json"
	@echo "make clean   remove caches and build products; $(VENV) and runs/ stay"

setup: $(STAMP)

# The lock is complete, so --no-deps takes it as it is: avalanche-lib declares 24 solver packages
# that nothing here uses. Newer lock or pyproject.toml than the stamp: installed again.
# The lines for CUDA exist for Linux only.
$(STAMP): requirements/lock.txt pyproject.toml
	@set -eu; \
	if ! $(BIN)/python -c '$(SUITABLE)' >/dev/null 2>&1; then \
	  found=; \
	  for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or newer with venv and ensurepip among: $(CANDIDATES)" >&2; \
	    echo "      install one (Debian, Ubuntu: apt install python3 python3-venv)" >&2; \
	    echo "      or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "setup: $(VENV) from $$($$found --version)"; \
	  "$$found" -m venv --clear "$(VENV)"; \
	fi; \
	lock=requirements/lock.txt; \
	if [ "$$(uname -s)" != Linux ]; then \
	  lock="$(VENV)/lock.txt"; \
	  grep -vE '^(cuda-|nvidia-|triton==)' requirements/lock.txt > "$$lock"; \
	fi; \
	echo "setup: installing pinned packages (on Linux about 6 GB on disk, some minutes)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r "$$lock"; \
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	touch $(STAMP); \
	echo "setup: done"

demo: setup
	$(BIN)/rtl run scenarios/digits.yaml

# One thread: on shared cores several threads wait for each other more than they compute.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# QUICK=--quick: smaller sizes, some minutes.
bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run_all.py --write $(QUICK)

bench-check: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run_all.py --check $(QUICK)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
