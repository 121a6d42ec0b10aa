# `make demo` and `make test` are all that a fresh machine needs: Python 3.11 or newer, with pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow lint format clean

demo: $(VENV)/installed
	$(BIN)/thingstuff demo

# A worker that dies ends the run: restarted ones would wait for work for ever.
test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n logical --dist loadfile --max-worker-restart=0 -m "not slow and not gpu"

slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis

# The stamps are newer than pyproject.toml exactly when everything in it is installed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "thingstuff needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/installed
