VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo demo-seeds test lint bench bench-train clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("ptune needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "set-up: installing into $(VENV)"
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' && \
	echo "set-up: done in $$(( $$(date +%s) - start )) s, downloads included"
	@touch $@

demo: $(READY)
	@$(BIN)/ptune demo

demo-seeds: $(READY)
	@$(BIN)/python benchmarks/demo_seeds.py

test: $(READY)
	@$(BIN)/python -m pytest

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)
	@$(BIN)/python benchmarks/flow.py

bench-train: $(READY)
	@$(BIN)/python benchmarks/train.py

clean:
	rm -rf $(VENV) build *.egg-info
