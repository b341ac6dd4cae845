# `make run` and `make test` do everything from a bare clone; `make help` names the rest.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
EMBEDDED := $(BIN)/python -m tradingok.embedded --temporary --
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup setup-dev run test proof faults check bench proto clean

help:
	@echo "make run        start everything: http://localhost:8080 (PORT, TRADINGOK_VAR, MONGODB_URI, REDIS_URL are honoured)"
	@echo "make test       run the tests on real servers (ARGS=tests/marketdata for some of them)"
	@echo "make proof      every test, those too that make test leaves out because they take long"
	@echo "make faults     every fault in its long form, with its figures (ARGS='-k mongod' for some of them)"
	@echo "make check      format, lint, types, import law, system checks, migrations, generated code"
	@echo "make bench      measure and print figures"
	@echo "make proto      generate broker/upstox/MarketDataFeedV3_pb2.py again"
	@echo "make setup      .venv with what production needs; setup-dev: with what checks and tests need, too"
	@echo "make clean      remove caches and .venv; data in var/ stays"

# A file tells which requirements are installed, so that nothing is done twice.
setup: .venv/installed
setup-dev: .venv/installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "TradingOK needs Python 3.11 or newer; this is $$($(PYTHON) --version). Give another: PYTHON=python3.12 make $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the virtual environment .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

.venv/installed: requirements.txt | .venv/bin/python
	@echo "Installing requirements.txt (about 200 MB, a minute or two the first time)"
	@$(BIN)/python -m pip install -r requirements.txt | { grep -v "already satisfied" || true; }
	@touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt | .venv/bin/python
	@echo "Installing requirements-dev.txt (about 300 MB, a minute or two the first time)"
	@$(BIN)/python -m pip install -r requirements-dev.txt | { grep -v "already satisfied" || true; }
	@touch .venv/installed $@

run: setup
	@$(BIN)/python manage.py up

test: setup-dev
	@$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

proof: setup-dev
	@$(BIN)/python -m pytest -m "" --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

faults: setup-dev
	@$(BIN)/python -m pytest tests/faults -m "" --faults=full --numprocesses=2 --dist=loadfile -v -rP --timeout=3600 $(ARGS)

check: setup-dev
	@echo "format";         ruff format --check --quiet --output-format concise . || { echo "Run: .venv/bin/ruff format ."; exit 1; }
	@echo "lint";           ruff check --quiet --output-format concise .
	@echo "types";          mypy .
	@echo "import law";     lint-imports --no-logo
	@echo "system checks";  $(EMBEDDED) $(BIN)/python manage.py check --fail-level WARNING
	@echo "migrations";     $(EMBEDDED) $(BIN)/python manage.py makemigrations --check --dry-run
	@echo "generated code"; $(BIN)/python -m tests.generated_code
	@echo "All checks passed"

bench: setup-dev
	@$(BIN)/python -m tests.bench $(ARGS)

proto: setup-dev
	@$(BIN)/python -m tests.generated_code --write

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov .coverage*
	find . -name __pycache__ -not -path "./var/*" -prune -exec rm -rf {} +
