VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip
# A test uses one core; the tests of one file stay together, for they share what is dear to start. Files with slow
# tests get a process each: vLLM, DeepSpeed and Ray leave groups and servers behind in theirs.
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist loadfile
# The first Python of a version that the lock is made for; a shim may exist and still not run.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)

.PHONY: help setup demo test check docs lock clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed  ## make .venv with everything, for the CPU

demo: setup  ## data, starting model, training and the before/after table
	$(BIN)/omniopsd demo

test: setup  ## all tests
	$(BIN)/python -m pytest -q -m "not slow" $(PARALLEL)
	$(BIN)/python -m tests.slow_files --jobs $(JOBS)

check: setup  ## format, lint, types, layers and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py
	$(BIN)/python -m pytest -q -m "not slow" --deselect tests/test_layers.py $(PARALLEL)

docs: setup  ## write docs/configuration.md from the code
	$(BIN)/python -m omniopsd.config_docs

lock: setup  ## resolve requirements-cpu.lock anew from pyproject.toml
	$(UV) compile pyproject.toml --extra cpu --extra dev --overrides overrides.txt \
		--python-version 3.11 --upgrade --no-header --no-annotate --output-file requirements-cpu.lock

clean:  ## remove what tools left behind; keeps .venv and runs
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/.installed: requirements-cpu.lock pyproject.toml | $(BIN)/uv
	$(UV) install --python $(BIN)/python --no-deps -r requirements-cpu.lock
	$(UV) install --python $(BIN)/python --no-deps -e .
	@touch $@

$(BIN)/uv:
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.11 or 3.12 found (python3 is $$(python3 --version 2>&1));" \
		"install one, or run: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { \
		echo "make setup: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or 3.12 is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.10.0
