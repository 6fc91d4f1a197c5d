# Two commands matter: `make demo` and `make test`. Both do all the set-up; `make` alone lists the rest.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

export PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
# Tests start hundreds of processes of Python: what one has compiled the next need not.
export PYTHONDONTWRITEBYTECODE =
# Workers of the tests, for two cores: those that start processes and guests wait most of the time (fewer: make test JOBS=2).
JOBS = 3

BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq
SOURCES := pileus tests bench

# The small guest of tests and benchmark (the demo makes it itself). Where it cannot be made the reason is told, and guests are simulated.
GUEST := if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(BIN)/python -m pileus.tinyguest >/dev/null || true; fi

.PHONY: help demo test check bench bench-scale soak format clean parts engines

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: parts .venv/runtime.done ## a throw-away cloud: two servers, proved from inside, timed, deleted without a trace
	@$(BIN)/pileus demo

test: engines check ## everything: check, then all tests (as root on Debian with real guests and a real switch)
	@$(GUEST)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: .venv/dev.done ## ruff and mypy --strict
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

bench: engines .venv/dev.done ## the figures: two tables, and bench/results/cloud.json and security.json
	@$(GUEST)
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.security

bench-scale: engines .venv/dev.done ## storms on many processes and hosts: a table, and bench/results/scale.json (25 minutes; some: FIGURES="cpu ports")
	@$(BIN)/python -m bench.scale $(FIGURES)

soak: engines .venv/dev.done ## everything is killed while servers come and go (make soak SECONDS=600 SEED=1; a seed repeats a run)
	@$(GUEST)
	@$(BIN)/python -m tests.chaos.soak $(or $(SECONDS),600) $(SEED)

format: .venv/dev.done ## put the source into its form
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

clean: ## remove .venv and what tools have cached here
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

parts:
	@tools/install-parts

engines:
	@tools/install-parts test

.venv/python.done:
	@tools/install-parts python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Pileus needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Making .venv" >&2; $(PYTHON) -m venv --clear .venv; }
	@touch $@

.venv/runtime.done: requirements.lock pyproject.toml .venv/python.done
	@echo "Installing what requirements.lock names" >&2
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.done: requirements-dev.lock pyproject.toml .venv/python.done
	@echo "Installing what requirements-dev.lock names" >&2
	@$(PIP) install --require-hashes --no-compile -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/runtime.done
