# Every target makes .venv itself when it is missing.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: demo test check bench format clean

demo: .venv/runtime  ## the tool's main job, on bundled data
	$(BIN)/nndiag demo

test: .venv/dev  ## the whole test suite
	$(PYTEST) -q

check: .venv/dev  ## what everybody runs before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q

bench: .venv/dev  ## against peers and against the physical limit, as ratios
	@for bench in benchmarks/*.py; do echo "== $$bench"; OMP_NUM_THREADS=1 $(BIN)/python $$bench || exit 1; done

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ .venv/runtime

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
