PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test lint bench docs-tables lock clean

help:
	@echo "make demo   pretrain a small CLIP on generated scenes, adapt it with every method, write the report"
	@echo "make test   run the tests        make lint   ruff, mypy, import-linter"
	@echo "make bench  measure speed and memory into benchmarks/results (ARGS=matching for one of them)"
	@echo "make docs-tables  write the tables of README.md and docs/ from the result files"
	@echo "make lock   re-pin requirements.lock from the ranges of pyproject.toml"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/intarsia demo $(ARGS)

test: setup
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)

docs-tables: setup
	$(BIN)/python -m docs_tables

lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade "pip>=25"
	.venv-lock/bin/python -m pip install --quiet ".[dev]" "torch==2.14.1" "torchvision==0.29.1"
	.venv-lock/bin/python -m pip freeze --exclude intarsia \
	  | sed -E '/^(nvidia-|cuda-|triton)/ s/$$/ ; platform_system == "Linux" and platform_machine == "x86_64"/' \
	  > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV)
