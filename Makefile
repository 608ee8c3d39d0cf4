.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# tests/conftest.py says how tests are distributed.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope
FAST := ATOLL_FUZZ_EXAMPLES=5 $(PYTEST) -m "not ray and not slow" --hypothesis-profile fast
INSTALLED := $(VENV)/.installed
PFL_INSTALLED := .venv-pfl/.installed

.PHONY: help install demo test test-all conformance test-fast coverage lint format docs bench clean

help: ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv with the pinned dependencies

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Atoll needs Python 3.11 or newer; set PYTHON=python3.11, say"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(INSTALLED) ## Run the quickstart: 100 clients, real images, a report at the end
	$(BIN)/atoll run experiments/quickstart.toml

test: $(INSTALLED) lint ## Check style, types and layers, and run the tests; under 15 minutes
	$(PYTEST) -m "not conformance and not long"

test-all: $(INSTALLED) lint ## The same with the long tests: several clusters, Ray's own time-outs
	$(PYTEST) -m "not conformance"

conformance: $(INSTALLED) ## Run the same apps on stock Flower and on Atoll, and compare
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/conformance

test-fast: $(INSTALLED) ## Run the tests that need no Ray and take less than a second each; about two minutes
	$(FAST)

coverage: $(INSTALLED) ## Run the tests that need no Ray, and show which branches of the code they take
	$(PYTEST) -m "not ray and not long and not conformance" --hypothesis-profile fast --cov --cov-report=term:skip-covered

lint: $(INSTALLED) ## Ruff, mypy (strict) and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## Build the documentation into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

$(PFL_INSTALLED): Makefile
	@test -x .venv-pfl/bin/python || $(PYTHON) -m venv .venv-pfl
	@.venv-pfl/bin/python -m pip install --quiet --disable-pip-version-check pfl==0.6.0 torch==2.13.0 pydantic==2.14.3
	@touch $@

bench: $(INSTALLED) $(PFL_INSTALLED) ## Run the benchmarks (see benchmarks/README.md)
	$(BIN)/python -m benchmarks.run

clean: ## Remove the environment, caches and runs
	rm -rf $(VENV) runs docs/_build docs/reference/generated docs/jupyter_execute .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
