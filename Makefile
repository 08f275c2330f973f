# Everything a stranger needs: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint types test-slow docs clean

setup: $(VENV)/.done

# pip reads the tested versions from constraints.txt; outside this Makefile the ranges of pyproject.toml hold.
$(VENV)/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/slimcnn run recipes/demo.toml --out runs/demo

test: setup lint types
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: setup
	$(BIN)/mypy

# With what the examples and some data sources need, so that none of their tests is left out.
test-slow: setup
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,examples,hf]'
	$(BIN)/python -m pytest -n 2 -m slow

# Strict: a broken link or a public name that the reference lacks stops the build. The site is build/site/index.html.
docs: setup
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) build runs .mypy_cache .ruff_cache .pytest_cache
