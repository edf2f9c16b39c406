# Everything a developer or a newcomer runs. PYTHON is the interpreter the environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-images check schema wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## the package with the tested versions, in .venv

demo: $(VENV)/.installed ## search, ablation and baselines on handwritten digits: about 2 minutes on 2 cores
	$(BIN)/tune-lt run search_spaces/digits.yaml

test: $(VENV)/.developer ## the tests, under 10 minutes on 2 cores
	$(BIN)/pytest

test-slow: $(VENV)/.developer ## kills, outages, browsers, whole demos: about an hour
	$(BIN)/pytest -m slow

test-images: $(VENV)/.developer ## docker/'s images built and run, as root: a quarter of an hour, 9 GB of disk
	$(BIN)/pytest -m images

check: $(VENV)/.developer ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

schema: $(VENV)/.installed ## search_spaces/schema.json, for editors
	$(BIN)/python -m tune_lt.schema > search_spaces/schema.json

wheel: $(VENV)/.developer ## dist/*.whl
	$(BIN)/pip wheel --no-deps -w dist .

clean: ## all that is made here, the store and the reports apart
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; say make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the package and its libraries into $(VENV): several GB, minutes the first time"
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@
