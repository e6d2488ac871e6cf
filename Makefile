# Needs only make and Python 3.11 or newer; everything else goes into .venv.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
STUDY  ?= studies/digits.toml
PYTEST_ARGS ?=

# The first interpreter that is new enough and can create virtual environments; PYTHON=… overrides it.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help install search test slow lint types docs wheel format clean

help:
	@echo "make search   search pseudo-derivatives on the digits data set (STUDY=… selects another study file)"
	@echo "make test     run the tests           make slow    also run tests that take minutes"
	@echo "make lint     check style and layout  make types   run mypy"
	@echo "make docs     build the documentation in build/site"
	@echo "make wheel    build a wheel in dist/ with the compiled kernels, for the installed torch"
	@echo "make format   fix style and layout    make clean   remove .venv and caches, keep results"

install: $(STAMP)

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: pdsearch needs Python 3.11 or newer with its venv module; none was found." >&2; \
		echo "      Install it (Debian, Ubuntu: apt install python3-venv) or name one: make PYTHON=/path/to/python3.12 …" >&2; \
		exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

search: $(STAMP)
	$(BIN)/pdsearch search $(STUDY)

# Hundreds of processes start in the tests; without kept bytecode, each compiles the package anew.
test slow: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(STAMP)
	$(BIN)/python -m pytest -m 'not gpu' $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The variable silences a notice of the theme, which is not about our pages.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Without build isolation: the library fits the torch it is compiled with.
wheel: $(STAMP)
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/python -m hatchling build -t wheel -d dist

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
