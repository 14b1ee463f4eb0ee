# Every target does its own set-up: it makes $(VENV) where there is none, and installs again only when
# pyproject.toml or constraints.txt has changed. Other libraries (INTEGRATIONS) have $(VENV)-<name> each.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.refit-installed
PYTEST_ARGS ?=
PYTHONS ?= 3.11 3.12 3.13 3.14
INTEGRATIONS := ray rllib torchrl zoo

.DEFAULT_GOAL := help
# Test models are tiny: more threads than one only wait for each other.
test test-slow test-api fuzz test-integrations test-wheel doctest coverage: export OMP_NUM_THREADS ?= 1
.PHONY: help install demo bench test test-slow fuzz test-matrix test-floor test-newest test-pythons \
	test-integrations $(INTEGRATIONS:%=test-%) test-wheel test-browser test-api check lint types doctest format \
	coverage docs clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv and install the package with its development tools

demo: $(INSTALLED) ## Pretrain and fine-tune on the embedded data set: before/after table, TensorBoard, curve (3 minutes)
	$(BIN)/refit demo

test: $(INSTALLED) ## Run the fast tests
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(INSTALLED) ## Run the slow tests (REFIT_DATA_HOME adds those on real data)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

fuzz: $(INSTALLED) ## Feed thousands of damaged files to everything that reads files (minutes)
	REFIT_FUZZ_EXAMPLES=$${REFIT_FUZZ_EXAMPLES:-5000} $(BIN)/python -m pytest -m fuzz $(PYTEST_ARGS)

# Each keeps its finished cells in .matrix and prints a table of them: scripts/matrix.py.
MATRIX = $(BIN)/python scripts/matrix.py --venv $(VENV) --pytest="$(PYTEST_ARGS)"

test-matrix: $(INSTALLED) ## Run fast tests and doctests by each set of vector instructions of this processor (minutes a cell)
	$(MATRIX) processors

test-floor: $(INSTALLED) ## Run fast tests and doctests with the lowest versions that pyproject.toml allows, in .venv-floor
	$(MATRIX) floor

test-newest: $(INSTALLED) ## Run fast tests and doctests with the newest, in .venv-newest (torch pinned, or TORCH=torch)
	$(MATRIX) newest $(TORCH:%=--torch %)

test-pythons: $(INSTALLED) ## Run fast tests and doctests on each Python of PYTHONS that is here, in .venv-3.N
	$(MATRIX) pythons --pythons $(PYTHONS)

test-wheel: $(VENV)/.refit-release-installed ## Build sdist and wheel, install the wheel in a clean environment, use it (minutes)
	REFIT_WHEEL=1 $(BIN)/python -m pytest -m slow tests/test_packaging.py $(PYTEST_ARGS)

test-browser: docs $(VENV)/.refit-browser-installed ## Open the site and a report in a headless Chromium, wide and narrow; skips where there is none
	REFIT_SITE=docs/_build $(BIN)/python -m pytest -m slow tests/browser $(PYTEST_ARGS)

test-api: $(VENV)/.refit-api-installed ## Send the service requests that are made from its OpenAPI (minutes)
	$(BIN)/python -m pytest -m slow tests/agents/serving/test_schema.py $(PYTEST_ARGS)

test-integrations: $(INTEGRATIONS:%=test-%) ## Run Ray Data, RLlib, TorchRL, rl-zoo3 and sb3-contrib (minutes)

# With the variable set, a library that is not there is an error, not a skipped test.
$(INTEGRATIONS:%=test-%): test-%: $(VENV)-%/.refit-installed
	REFIT_INTEGRATION=$* $(VENV)-$*/bin/python -m pytest tests/integrations/$* $(PYTEST_ARGS)

bench: $(INSTALLED) ## Measure the ratios (ten minutes or more; an interrupted call goes on) and write benchmarks/RESULTS.md
	OMP_NUM_THREADS=1 $(BIN)/python -m agents bench --data ml-1m yelp2018 gowalla --write benchmarks/RESULTS.md

check: lint types doctest ## Lint, format, strict types, doctests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

doctest: $(INSTALLED)
	$(BIN)/python -m pytest -q --doctest-modules refit_env agents benchmarks docs/make_results.py

format: $(INSTALLED) ## Rewrite the code in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

coverage: $(INSTALLED) ## Run the fast tests and print what they do not reach
	$(BIN)/python -m coverage run -m pytest -m "not slow" $(PYTEST_ARGS)
	$(BIN)/python -m coverage report --show-missing --skip-covered

docs: $(VENV)/.refit-docs-installed ## Write the generated pages again and build the site into docs/_build (no warnings)
	$(BIN)/python docs/make_env_pages.py
	$(BIN)/python docs/make_registry_pages.py
	$(BIN)/python docs/make_results.py
	$(BIN)/python docs/make_leaderboards.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "the site: docs/_build/index.html"

clean: ## Remove caches and build products (keeps .venv and runs)
	rm -rf build dist docs/_build docs/api .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(BIN)/python $(INTEGRATIONS:%=$(VENV)-%/bin/python):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "refit-env needs Python >= 3.11; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(@:%/bin/python=%) || { rm -f $@; echo "No venv: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

EXTRAS := api browser docs release
$(EXTRAS:%=$(VENV)/.refit-%-installed): $(VENV)/.refit-%-installed: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,$*]'
	@touch $@

# A library's pins are added to those of constraints.txt or replace them: pip allows one pin for a package.
$(INTEGRATIONS:%=$(VENV)-%/.refit-installed): $(VENV)-%/.refit-installed: \
		pyproject.toml constraints.txt constraints-%.txt | $(VENV)-%/bin/python
	awk -F '==' '{name = tolower($$1); gsub(/[-_.]+/, "-", name)} NR == FNR {own[name]} NR == FNR || !(name in own)' \
		constraints-$*.txt constraints.txt > $(VENV)-$*/constraints.txt
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(VENV)-$*/constraints.txt -e '.[$*]' hypothesis pytest
	@touch $@
