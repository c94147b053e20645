# The commands of this repository. Each makes .venv by itself and needs nothing but Python.
#
#   PYTHON=/path/to/python3   another Python for .venv (3.11 or newer)
#   MAINSTAY_NO_SYSTEM=1      `make test` installs no system package

.DEFAULT_GOAL := help
.SUFFIXES:
# Where this is set, every process compiles every module again.
unexport PYTHONDONTWRITEBYTECODE
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := .venv/bin
# The quickest Python that can tell whether .venv is as it should be.
SETUP_PYTHON := $(or $(PYTHON),$(wildcard $(BIN)/python),python3)
CODE := $(wildcard src tests services tools benchmarks)
# What is in the repository, or will be with the next commit; nothing where there is no git.
TRACKED := git ls-files -z --cached --others --exclude-standard 2>/dev/null
# Arguments for pytest: make test ARGS='-k outbox'; for the benchmarks: make bench ARGS=--quick
ARGS ?=
# The other variables that commands take (SEED, ONLY, …) are expanded by the shell: make exports
# what its command line and its environment set, and so no value becomes part of a command.
# Most tests wait for servers, so more of them run at a time than there are cores.
NUMPROCESSES := "--numprocesses=$${WORKERS:-4}"

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: .environment-run ## Run the whole reference platform on embedded servers; Ctrl-C stops it
	@exec $(BIN)/mainstay dev

.PHONY: test
test: .environment-dev ## Run the tests, with branch coverage
	@tools/system_packages.sh
	@$(BIN)/python -m pytest $(NUMPROCESSES) --dist=loadfile --cov --cov-report=term $(ARGS)

.PHONY: check
check: .environment-dev ## Formatting, lint, types, import map, dead code, generated files; no test
	@$(BIN)/python -m ruff format --check $(CODE)
	@$(BIN)/python -m ruff check $(CODE)
	@$(MAKE) types
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/dead_code.py
	@$(BIN)/python -m deptry --no-ansi src
	@$(BIN)/python tools/constraints.py --check
	@$(BIN)/mainstay config --write-examples --check
	@$(TRACKED) | xargs -0 $(BIN)/python tools/check_files.py

.PHONY: types
types: .environment-dev
	@$(BIN)/python -m mypy $(CODE)

.PHONY: format
format: .environment-dev ## Mend what can be mended by itself
	@$(BIN)/python -m ruff check --fix --quiet $(CODE) || true
	@$(BIN)/python -m ruff format --quiet $(CODE)
	@$(TRACKED) | xargs -0 $(BIN)/python tools/check_files.py --fix

.PHONY: install-dev
install-dev: .environment-dev ## Install the development environment and the commit hooks
	@$(BIN)/python -m pre_commit install >/dev/null
	@install -m 755 tools/commit_hook.sh "$$(git rev-parse --git-path hooks)/pre-commit"

.PHONY: chaos
chaos: .environment-dev ## Run the fault scenarios and print their reconciliation: SEED=7, SIZE=full, ONLY=1,16, LOG=FILE
	@tools/system_packages.sh
	@$(BIN)/python -m tests.chaos $${SEED:+--seed "$$SEED"} $${SIZE:+--size "$$SIZE"} $${ONLY:+--only "$$ONLY"} $${LOG:+--log "$$LOG"}

.PHONY: test-versions
test-versions: .environment-dev ## Test the oldest and newest FastAPI, Flask, Celery, SQLAlchemy, redis-py: ONLY=oldest
	@tools/system_packages.sh
	@$(BIN)/python tools/versions.py $${ONLY:+--only "$$ONLY"} $(NUMPROCESSES) $(ARGS)

.PHONY: bench
bench: .environment-dev ## Measure against the peers, as one table: ROW=http, ROUNDS=9, ARGS=--quick
	@$(BIN)/python -m benchmarks $$ROW $${ROUNDS:+--rounds="$$ROUNDS"} $(ARGS)

.PHONY: foreign
foreign: .environment-dev ## Run another project's tests bare and with Mainstay: SUITE=celery|flask|starlette
	@$(BIN)/python -m tools.foreign "$${SUITE:---help}" $(ARGS)

.PHONY: constraints
constraints: .environment-dev ## Move constraints.txt to the newest versions that fit pyproject.toml
	@$(BIN)/python tools/constraints.py

.PHONY: .environment-run .environment-dev
.environment-run .environment-dev: .environment-%:
	@$(SETUP_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2>/dev/null || \
	  { echo "Mainstay needs Python 3.11 or newer (Debian: apt-get install python3 python3-venv)"; exit 1; }
	@$(SETUP_PYTHON) tools/environment.py $*
