PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Extra options for pip and pytest, e.g. make check PYTEST_ARGS="-m 'not slow'"
PIP_ARGS ?=
PYTEST_ARGS ?=
# Processes that share the tests file by file; each uses one thread.
JOBS ?= 2

EXAMPLE := examples/mmfree-9m
DEMO := build/mmfree-9m
PROMPT ?= Search backward in the history for

.PHONY: help demo check size clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## compile the example model for the CPU and let it continue a sentence
	$(BIN)/mmc compile $(EXAMPLE) --target cpu -o $(DEMO)
	$(BIN)/mmc run $(DEMO) -p "$(PROMPT)" -n 48

check: $(VENV)/installed ## lint, format, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

size: ## lines of Python code per layer, without blank lines, comments and docstrings
	@$(PYTHON) tests/architecture/size.py

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A changed dependency or pin installs again.  The stamp is written last: a broken install is redone.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@
