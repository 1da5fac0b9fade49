VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo demo-seeds test test-full chaos cluster-test lint bench-flow bench-extract bench-systems bench-train bench-scoring \
	bench-race bench-overhead bench-scale validity clean

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

# Most of it waits for processes to start: three files at a time keep two cores busy.
test: $(READY)
	@$(BIN)/python -m pytest -n 3 --dist loadfile

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The batteries of random damage and random deaths, with all their seeds.
test-full: $(READY)
	@PTUNE_FULL=1 $(BIN)/python -m pytest tests/extract/test_damage.py tests/extract/test_kill.py \
		tests/track/test_registration_crashes.py tests/track/test_fresh_environment.py tests/track/test_first_touch.py \
		tests/track/test_faults.py tests/track/test_outage.py tests/train/test_leak.py \
		tests/test_dropped_connections.py tests/test_full_disk.py tests/tune/test_limit.py tests/tune/test_memory.py --timeout 3200

# Sweeps whose drivers and actors are killed at random moments, all seeds: about an hour.
chaos: $(READY)
	@PTUNE_FULL=1 $(BIN)/python -m pytest tests/tune/test_chaos.py tests/tune/test_conductor.py --timeout 1200

# Three hosts in network namespaces, PostgreSQL, and what becomes of work when they fail. Needs root and iproute2.
cluster-test: $(READY)
	@PTUNE_FULL=1 $(BIN)/python -m pytest tests/cluster --timeout 1200 -rs

bench-flow: $(READY)
	@$(BIN)/python benchmarks/flow.py

bench-extract: $(READY)
	@$(BIN)/python benchmarks/extraction.py scale
	@$(BIN)/python benchmarks/extraction.py memory
	@$(BIN)/python benchmarks/extraction.py store

bench-systems: $(READY)
	@$(BIN)/python benchmarks/systems.py build/bench-systems

bench-train: $(READY)
	@$(BIN)/python benchmarks/train.py

bench-scoring: $(READY)
	@$(BIN)/python benchmarks/scoring.py

bench-race: $(READY)
	@$(BIN)/python benchmarks/race.py 200

bench-overhead: $(READY)
	@$(BIN)/python benchmarks/overhead.py sweep
	@$(BIN)/python benchmarks/overhead.py simulate

bench-scale: $(READY)
	@$(BIN)/python benchmarks/scale.py

# Simulated studies whose truth is known.
validity: $(READY)
	@$(BIN)/python benchmarks/validity.py

clean:
	rm -rf $(VENV) build *.egg-info
