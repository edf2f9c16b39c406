# Everything a developer or a newcomer runs. PYTHON is the interpreter the environment is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo quick test test-shuffled smoke test-slow test-images mutations check schema wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## the package with the tested versions, in .venv

demo: $(VENV)/.installed ## search, ablation and baselines on handwritten digits: about 2 minutes on 2 cores
	$(BIN)/tune-lt run search_spaces/digits.yaml

# A file's tests stay in one process; those that need Ray share one of them (tests/conftest.py).
PARALLEL := -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

# A file with a pytestmark is not even read: most of them bring MLflow or Ray, which takes longer than these tests.
quick: $(VENV)/.developer ## mathematics, data, training, statistics, study files: a minute on 2 cores
	$(BIN)/pytest $(PARALLEL) -m 'not long and not smoke and not slow and not images and not cuda' \
		$$(grep -rL pytestmark --include='test_*.py' tests)

test: $(VENV)/.developer ## the tests: four to six minutes on 2 cores
	$(BIN)/pytest $(PARALLEL)

test-shuffled: $(VENV)/.developer ## the same in another order each time, which its first lines name
	$(BIN)/pytest $(PARALLEL) -p randomly

smoke: $(VENV)/.developer ## one of each kind of trouble with real parts: a kill, an outage, a browser, a wheel
	$(BIN)/pytest -m smoke

# Its tests fill the machine's memory, so nothing runs beside them.
ALONE := tests/system/test_failures.py

test-slow: $(VENV)/.developer ## many kills, outages, hosts, Slurm, load: under half an hour
	$(BIN)/pytest -m slow $(PARALLEL) --ignore=$(ALONE)
	$(BIN)/pytest -m slow $(ALONE)

test-images: $(VENV)/.developer ## docker/'s images built and run, as root: a quarter of an hour, 9 GB of disk
	$(BIN)/pytest -m images

mutations: $(VENV)/.developer ## known mistakes put into a copy of the code one by one: which test notices each
	$(BIN)/python tests/mutations.py

check: $(VENV)/.developer ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests benchmarks

schema: $(VENV)/.installed ## search_spaces/schema.json, for editors
	$(BIN)/python -m tune_lt.study.schema > search_spaces/schema.json

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
