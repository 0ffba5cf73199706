# `make run` starts a gateway on embedded defaults; `make test` installs what the tests need and runs them all.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
INSTALL := @$(BIN)/python install.py $(BIN)/python --constraint constraints.txt

# Compiled modules are kept, whatever the machine says: the tests start some hundred gateways, and each would
# compile all of its modules again, as pytest would all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo test lint types docs bench clean

run: $(VENV)/.run
	$(BIN)/gateway serve --dev $(ARGS)

# A gateway with users and agents on it, to look at its pages.
demo: $(VENV)/.run
	@$(BIN)/python -m gateway.demo $(ARGS)

# Coverage is counted over the pure core, which is all that it is asked for: counting doubles the time of a test.
test: $(VENV)/.test
	$(BIN)/python tests/e2e/prerequisites.py
ifdef ARGS
	$(PYTEST) $(ARGS)
else
	$(PYTEST) tests/protocol --cov --cov-report=term:skip-covered
	$(PYTEST) --ignore=tests/protocol
endif

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: $(VENV)/.lint
	$(BIN)/mypy

# Into build/site, with every warning an error.
docs: $(VENV)/.docs
	$(BIN)/python docs/build.py

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing the gateway and its dependencies into $(VENV); this takes about half a minute"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) --editable '.[test,lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(INSTALL) --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage
