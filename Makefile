# The contributor's way in; .ci/run calls nothing else. PYTHON=python3.12 chooses the Python of a new .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup leaderboard test check lint types imports bench report clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

setup: $(STAMP)  ## build .venv with everything that the other targets need

# tinysoundfont requires PyAudio, which has no Linux wheel and is for playback only.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --no-deps tinysoundfont
	@touch $@

leaderboard: setup  ## render the data, train the quick benchmark, print its table and name the report
	$(BIN)/sonido-bench run configs/benchmarks/quick.yaml

test: setup  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

check: lint types imports test  ## style, types, import direction, tests

lint: setup  ## style, by ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## types, by mypy (strict)
	$(BIN)/mypy

imports: setup  ## import direction, by import-linter
	$(BIN)/lint-imports

bench: setup  ## speed and checks of the statistics: benchmarks/ without the searches, --quick where there is one
	@set -e; for script in $(filter-out %_search.py %_tables.py,$(wildcard benchmarks/*.py)); do \
		if grep -q -e '"--quick"' $$script; then quick=--quick; else quick=; fi; \
		echo "== $$script $$quick"; \
		$(BIN)/python -m benchmarks.$$(basename $$script .py) $$quick; \
	done

report: setup  ## rebuild the report of results/quick
	$(BIN)/sonido-bench leaderboard results/quick --report

clean:  ## remove build products and tools' caches; .venv, data, features and results stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -path ./results -prune -o -name __pycache__ -type d -exec rm -rf {} +
