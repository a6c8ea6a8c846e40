# Two commands are all a new user needs: `make rehearse` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

SCENARIO ?= mass-reset
SEED ?= 1
ACCOUNTS ?= 338
UI_PORT ?= 4200
DATABASE ?= sqlite

.PHONY: help rehearse up down test test-long check format install lock clean
.DEFAULT_GOAL := help

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

rehearse: $(INSTALLED)  ## Run a whole incident end to end in the rehearsal world. SCENARIO= SEED= ACCOUNTS= DATABASE=
	@$(BIN)/python -m rehearsal run --scenario $(SCENARIO) --seed $(SEED) --accounts $(ACCOUNTS) --database $(DATABASE)

up: $(INSTALLED)  ## Start the rehearsal world and leave it running for the Prefect UI. DATABASE=postgres
	@$(BIN)/python -m rehearsal up --scenario $(SCENARIO) --seed $(SEED) --accounts $(ACCOUNTS) --ui-port $(UI_PORT) --database $(DATABASE)

down: $(INSTALLED)  ## Stop what `make up` started.
	@$(BIN)/python -m rehearsal down

test: $(INSTALLED)  ## Run the tests.
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(INSTALLED)  ## Run the tests that take minutes each: attacks on gates, stops, kills, the browser.
	@$(BIN)/python -m pytest -q -m long

check: $(INSTALLED)  ## Lint, format, types, import rules, runbooks.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_house.py

format: $(INSTALLED)  ## Format the code.
	@$(BIN)/ruff check --fix -q .
	@$(BIN)/ruff format -q .

install: $(INSTALLED)  ## Create .venv with the locked dependencies.

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3.12 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "The venv module is missing; on Debian: apt install python3-venv"; exit 1; }
	@echo "Installing the locked dependencies into $(VENV) (about a minute) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

lock:  ## Resolve pyproject.toml into requirements.lock and the image's subset of it (needs uv).
	uv pip compile pyproject.toml --extra rehearsal --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras -q -o requirements.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 -c requirements.lock \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras -q -o deploy/requirements.lock

clean:  ## Remove what was built and the rehearsal's leftovers.
	rm -rf $(VENV) var *.egg-info .mypy_cache .ruff_cache .pytest_cache
