# Every target does its own set-up: it makes $(VENV) where there is none, and installs again only when
# pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.refit-installed
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
# Test models are tiny: more threads than one only wait for each other.
test test-slow doctest coverage: export OMP_NUM_THREADS ?= 1
.PHONY: help install demo test test-slow check lint types doctest format coverage docs clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv and install the package with its development tools

demo: $(INSTALLED) ## Pretrain and fine-tune on the embedded data set: before/after table, TensorBoard, curve (3 minutes)
	$(BIN)/refit demo

test: $(INSTALLED) ## Run the fast tests
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(INSTALLED) ## Run the slow tests (REFIT_DATA_HOME adds those on real data)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: lint types doctest ## Lint, format, strict types, doctests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

doctest: $(INSTALLED)
	$(BIN)/python -m pytest -q --doctest-modules refit_env agents

format: $(INSTALLED) ## Rewrite the code in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

coverage: $(INSTALLED) ## Run the fast tests and print what they do not reach
	$(BIN)/python -m coverage run -m pytest -m "not slow" $(PYTEST_ARGS)
	$(BIN)/python -m coverage report --show-missing --skip-covered

docs: $(INSTALLED) ## Write the environments' pages and the README's tables again
	$(BIN)/python docs/make_env_pages.py
	$(BIN)/python docs/make_results.py

clean: ## Remove caches and build products (keeps .venv and runs)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "refit-env needs Python >= 3.10; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -f $@; echo "No venv: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
