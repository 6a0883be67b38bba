# The one list of commands; `make help` prints it.
PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-peers
BIN    := $(VENV)/bin
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install train test lint format test-fast test-slow test-peers benchmark wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1|/' | column -t -s '|'

install: $(BIN)/.installed  ## make .venv and install the package into it, with pinned versions

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

train: install  ## train the default experiment; Hydra overrides in ARGS="seed=1 algorithm/alpha_cql=learned"
	$(BIN)/python scripts/train.py +experiment=quickstart $(ARGS)

test: install lint test-fast  ## lint, types and the fast tests

lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-fast: install  ## the fast tests alone
	$(BIN)/pytest $(ARGS)

test-slow: install  ## the tests that take minutes
	$(BIN)/pytest -m 'slow' $(ARGS)

# d3rlpy asks for an older gymnasium than ours, so it has an environment of its own.
$(PEERS)/.installed: pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	grep -v '^gymnasium==' constraints.txt > $(PEERS)/constraints.txt
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c $(PEERS)/constraints.txt -e '.[dev,peers]'
	touch $@

test-peers: $(PEERS)/.installed  ## compare with d3rlpy's own classes (makes .venv-peers)
	$(PEERS)/bin/pytest -m 'peers' $(ARGS)

benchmark: $(PEERS)/.installed  ## updates per second, beside d3rlpy (makes .venv-peers)
	$(PEERS)/bin/python scripts/benchmark.py $(ARGS)

wheel: install  ## build the source archive and the wheel into dist/
	$(BIN)/python -m build

clean:  ## remove .venv, build products and caches; outputs/ stays
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
