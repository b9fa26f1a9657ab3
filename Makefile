# Every target installs what it needs. ARGS reaches the command: make demo ARGS="--seconds 20 --json"
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format bench bench-peers docs lock servers readers clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# All progress goes to stderr, so that a command's JSON stays the only thing on stdout.
$(VENV)/installed: requirements.txt pyproject.toml
	@{ $(PYTHON) -c 'import sys; sys.exit("Catchment needs Python 3.11 or newer, this is %s" % sys.version) if sys.version_info < (3, 11) else None' && \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . && \
	touch $@; } >&2

install: $(VENV)/installed ## Base, AWS, demo and development packages into .venv

demo: install ## The shop, captured live: make demo ARGS="--seconds 20 --rate 500 --json"
	@$(BIN)/catchment demo shop $(ARGS)

servers: install ## Debian's PostgreSQL 15, where apt is to be had, and AWS's stand-in (tests skip visibly without)
	@$(BIN)/python -m catchment.demo.ministack .cache/catchment || true
	@if [ ! -x /usr/lib/postgresql/15/bin/postgres ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-15 strace) >&2 || true; fi
	@if ! command -v strace >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace) >&2 || true; fi

readers: install ## Spark, Polars and DuckDB's Iceberg extension into .cache/, to read what we write (tests skip visibly without)
	@PYTHONPATH=tests $(BIN)/python -m readers.environment

test: install servers readers ## The default suite, servers included
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-all: install servers readers ## Everything, the slow tests too
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "" $(ARGS)

check: install ## ruff, mypy --strict and the import rule
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py

format: install ## Format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install ## Ratios against PostgreSQL's own tools, in one run
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: install ## Debezium and dlt beside Catchment, in one run
	@$(BIN)/python -m benchmarks.peers $(ARGS)

docs: install ## Build the docs into site/ and check them
	@$(BIN)/python -m docs $(ARGS)

lock: install ## Pin everything anew, with hashes
	@$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe --extra aws --extra demo --extra dev -o requirements.txt pyproject.toml
	@$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe -o src/catchment/demo/ministack-requirements.txt src/catchment/demo/ministack-requirements.in

clean: ## Remove what was built
	@rm -rf $(VENV) site .cache .pytest_cache .mypy_cache .ruff_cache
