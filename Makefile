# Three commands matter: `make demo` (see it), `make test` (check it), `make docs` (read it).
# Everything lives in .venv; nothing is installed outside this folder. See CONTRIBUTING.md.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt

# Two test processes with one thread each: torch's threads would only get in each other's way.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
TYPED := tests/core tests/nets tests/sample tests/data

.PHONY: help demo setup dev check test unit typed docs bench claims clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/ready ## Set everything up, then train, straighten and steer a flow: runs/tour/report.html.
	$(BIN)/rheos tour $(TOUR)

setup: $(VENV)/ready ## The library and what the tour needs.

dev: $(VENV)/ready-dev ## The library with everything for working on it.

test: check docs typed unit ## All checks, the docs, and the tests.

check: $(VENV)/ready-dev ## Lint, format, types, layers, sizes, secrets.
	$(BIN)/python scripts/check

unit: $(VENV)/ready-dev ## Tests, docstring examples, and every block of the docs.
	$(PYTEST)

typed: $(VENV)/ready-dev ## The quick tests again, with shapes and types checked at every call.
	PYTHONPATH=scripts $(PYTEST) --quiet -m "not untyped" --jaxtyping-packages=rheos,typed.check $(wildcard $(TYPED))

docs: $(VENV)/ready-dev ## Build the site, strictly: docs/_build/html/index.html.
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html
	$(BIN)/python scripts/check_docs.py docs/_build/html

bench: $(VENV)/ready-bench ## Time rheos and its peers in turn.
	$(BIN)/rheos bench $(BENCH)

claims: $(VENV)/ready ## Run the claim of every method that works; slow.
	$(BIN)/python scripts/reproduce_all.py $(CLAIMS)

clean: ## Remove everything that was built, but neither .venv nor runs.
	rm -rf docs/_build docs/api build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench scripts docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in stages. A stamp that is newer than what it was made from costs nothing to check.

$(VENV)/pip:
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11 or newer, or name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "rheos needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade --constraint constraints.txt pip
	@touch $@

$(VENV)/ready: $(VENV)/pip $(INPUTS)
	@echo "Setting up .venv, once: torch is large, so this takes a few minutes."
	$(INSTALL) --editable ".[data]"
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(INSTALL) --editable ".[data,tensorboard]" --group dev --group docs
	@touch $@

# azula and torchcfm ask for torchvision and Lightning, which nothing that is timed here needs.
$(VENV)/ready-bench: $(VENV)/ready
	$(INSTALL) --editable ".[data,bench]"
	$(INSTALL) --no-deps azula torchcfm
	@touch $@
