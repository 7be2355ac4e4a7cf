# Two commands on a fresh clone do everything: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BUNDLE ?= demo/bundle
# One process per core, a few gigabytes of memory at most: each imports torch for itself.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: help demo test test-all lint format bench clean
.DELETE_ON_ERROR:

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed-demo ## Train, deploy and inspect a conveyor made from a photograph; pictures in ./demo
	$(BIN)/lrdan-edge demo

test: $(VENV)/.installed-dev lint ## Check style and types, and run the tests (minutes)
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev lint ## Also run the slow tests
	$(PYTEST)

lint: $(VENV)/.installed-dev ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-dev $(BUNDLE)/manifest.json ## Measure engines and the loop here, on the demo's bundle or BUNDLE=DIR (minutes)
	$(BIN)/lrdan-edge bench --bundle '$(BUNDLE)'
	$(BIN)/python benchmarks/loop.py '$(BUNDLE)' --output runs/bench

demo/bundle/manifest.json: | $(VENV)/.installed-demo
	$(BIN)/lrdan-edge demo

clean: ## Remove .venv and what the commands made
	rm -rf $(VENV) demo bundle .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The second way is for systems whose Python comes without ensurepip (Debian without python3-venv).
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "lrdan-edge needs Python 3.10 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (once, some minutes)"
	$(PIP_INSTALL) --editable '.[$*]'
	@touch $@
