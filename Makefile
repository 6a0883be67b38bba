# The one list of commands; `make help` prints it.
PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-peers
RAY    ?= .venv-ray
NEXT   ?= .venv-hydra-next
BIN    := $(VENV)/bin
ARGS   ?=
# Tests are single-threaded; so many processes run them side by side, each file in one of them.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install train test lint format test-fast test-slow test-ci test-slurm test-ray test-hydra-next test-peers \
	docs docs-serve benchmark mutants wheel clean

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

lint: install  ## ruff, mypy and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-fast: install  ## the fast tests alone
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: install  ## the tests that take minutes
	$(BIN)/pytest -m 'slow' $(ARGS)

test-ci: install  ## the slow tests that CI runs once: the wheel, the notebook, the pages' commands, joblib, Optuna
	$(BIN)/pytest -n $(WORKERS) -m 'ci' $(ARGS)

test-slurm: install  ## sweeps through a real SLURM, installed and started by the tests (as root on Debian)
	$(BIN)/pytest -m 'slurm' $(ARGS)

# $(call constraints,FILE): those of constraints.txt, but FILE's where it has the package too.
constraints = awk -F== 'NR == FNR {own[$$1]; print; next} !($$1 in own)' $(1) constraints.txt

# Ray's launcher asks for an older cloudpickle than ours, so it has an environment of its own.
$(RAY)/.installed: pyproject.toml constraints.txt constraints-ray.txt
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(call constraints,constraints-ray.txt) > $(RAY)/constraints.txt
	$(RAY)/bin/pip install --quiet --disable-pip-version-check -c $(RAY)/constraints.txt -e '.[dev,ray]'
	touch $@

test-ray: $(RAY)/.installed  ## sweeps through a local Ray (makes .venv-ray)
	$(RAY)/bin/pytest -m 'ray' $(ARGS)

$(NEXT)/.installed: pyproject.toml constraints.txt constraints-hydra-next.txt
	test -x $(NEXT)/bin/python || $(PYTHON) -m venv $(NEXT)
	$(call constraints,constraints-hydra-next.txt) > $(NEXT)/constraints.txt
	$(NEXT)/bin/pip install --quiet --disable-pip-version-check -c $(NEXT)/constraints.txt -e '.[dev]'
	touch $@

test-hydra-next: $(NEXT)/.installed  ## config, scripts, launcher and sweeps on Hydra's next release (makes .venv-hydra-next)
	$(NEXT)/bin/pytest tests/config tests/scripts tests/sweep $(ARGS)

# d3rlpy asks for an older gymnasium than ours and gymnasium-robotics, so it has an environment of its own.
$(PEERS)/.installed: pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	grep -v '^gymnasium==' constraints.txt > $(PEERS)/constraints.txt
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c $(PEERS)/constraints.txt -e '.[peers]' pytest pytest-xdist
	touch $@

test-peers: $(PEERS)/.installed  ## compare with d3rlpy's own classes (makes .venv-peers)
	$(PEERS)/bin/pytest -m 'peers' $(ARGS)

# Material's notice of another program is none of ours.
docs: install  ## build the site into build/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: install  ## show the site at http://127.0.0.1:8000, with search, and renew it when a page is saved
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

mutants: install  ## break the code on purpose and count what the fast tests catch; ARGS="--count 48 --seed 0"
	$(BIN)/python tests/mutants.py $(ARGS)

benchmark: install $(PEERS)/.installed  ## speed and memory, beside d3rlpy and TorchRL (makes .venv-peers)
	$(BIN)/python benchmarks/benchmark.py --peers $(PEERS)/bin/python $(ARGS)

wheel: install  ## build the source archive and the wheel into dist/
	$(BIN)/python -m build

clean:  ## remove .venv, build products and caches; outputs/ stays
	rm -rf $(VENV) $(PEERS) $(RAY) $(NEXT) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
