# Each target sets up what it needs: .venv is made when it is missing, and installed again when pyproject.toml or
# constraints.txt changed. Without a GPU, the smaller CPU build of torch will do:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
.PHONY: help demo test test-all check results bench clean
.DELETE_ON_ERROR:
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.raygen-installed
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

# The interpreter that makes .venv: the first of these that runs and is new enough (3.11 is the tested one).
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name $(IS_NEW_ENOUGH) 2>/dev/null && { echo $$name; break; }; done)

help:
	@echo 'make demo      the main job on the embedded benchmark, then where its report is (ARGS="--out runs/other")'
	@echo 'make test      the quick tests          make test-all  all that this machine can run'
	@echo 'make check     style, types, layers     make bench     the short benchmarks, into benchmarks/results.json'
	@echo 'make results   the measurements of docs/results.md (hours; goes on from benchmarks/measured)'
	@echo 'make clean     removes .venv and caches; runs/ stays'

demo: $(STAMP)
	$(BIN)/raygen demo $(ARGS)
	@[ -n '$(ARGS)' ] || echo 'Report: $(CURDIR)/runs/demo/report.html'

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow and not gpu and not network' $(ARGS)

# Tests marked gpu or network skip themselves where there is none.
test-all: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

results: $(STAMP)
	$(BIN)/python benchmarks/results.py $(ARGS)

bench: $(STAMP)
	$(BIN)/python benchmarks/short.py $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	@if [ -x $(BIN)/python ] && $(BIN)/python $(IS_NEW_ENOUGH); then exit 0; fi; \
	if [ -e $(VENV) ]; then \
		echo '$(VENV) does not hold a working Python 3.11 or newer. Remove it with "make clean" and try again.' >&2; exit 2; \
	fi; \
	if [ -z '$(PYTHON)' ] || ! $(PYTHON) $(IS_NEW_ENOUGH); then \
		echo "raygen needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) --version 2>&1 || true)." >&2; \
		echo 'Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11' >&2; exit 2; \
	fi; \
	$(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo '$(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv).' >&2; exit 2; \
	}
	$(BIN)/python -m pip install --editable '.[dev]' --constraint constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
