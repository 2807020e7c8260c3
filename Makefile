# make demo    train the ViT on the digits and show what it learned
# make test    every check on the newest torch
# make test-torchtext    every test on the oldest torch, with torchtext (Python 3.10 or 3.11)
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,tools
TORCHTEXT_VENV ?= .venv-torchtext
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: install lint test test-torchtext demo bench clean
.DEFAULT_GOAL = help

help:
	@sed -n 's/^# make/make/p' Makefile

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

install: $(STAMP)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers for two cores, one thread each: threads of several processes that fight over cores are slower than none.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Style and types are those of the newest torch; here it is what the code does that matters.
test-torchtext:
	$(MAKE) install VENV=$(TORCHTEXT_VENV) EXTRAS=dev,torchtext
	OMP_NUM_THREADS=1 $(TORCHTEXT_VENV)/bin/python -m pytest -n 2 --dist loadfile

# One thread: the network is so small that a second one would mostly wait for the first.
demo: install
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.demo

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) $(TORCHTEXT_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
