# Every target works alone on a fresh clone: it makes the virtual environment it needs first.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
OLDEST ?= .venv-oldest
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --require-virtualenv
# Of `test-matrix`: what stands on private names of others, and what every task passes through.
MATRIX := tests/unit tests/acceptance tests/integration/test_cells*.py tests/integration/test_delivery*.py \
	tests/integration/test_breaker*.py tests/integration/test_stock_clients.py
# Tests wait more than they compute: three at a time keep two cores busy.
JOBS ?= 3
MINUTES ?= 60
MESSAGES ?= 100000
# The locks are complete: pip resolves nothing, so a newer release of anything changes nothing.
FROM_LOCK := $(PIP) install --no-deps --require-hashes -r
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-annotate --extra embedded --extra dashboard --extra demo

.PHONY: help install workers dashboard migrate migrate-lint demo tour test test-matrix tools test-all coverage soak fuzz bench check format docs lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# pip says nothing until it is done: `say` has one line for each step, with how long it may take.
say = @printf '  %s\n' $(1)

$(RUN): deploy/locks/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seawall needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(call say,"1/3 make the virtual environment $(VENV): 5 to 20 s")
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call say,"2/3 download and install $$(grep -c '^[a-z]' deploy/locks/run.txt) packages into it: 20 to 150 s the first time")
	@$(FROM_LOCK) deploy/locks/run.txt
	$(call say,"3/3 install Seawall from this directory: 5 s")
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUN) deploy/locks/dev.txt
	$(call say,"download and install the tools of development: 30 to 200 s the first time")
	@$(FROM_LOCK) deploy/locks/dev.txt
	@touch $@

install: $(RUN) ## Set up the virtual environment and nothing else.

workers: $(RUN) ## Run the fleet: servers, migrations, workers, Flower. Ctrl-C drains and stops.
	@$(BIN)/seawall up

dashboard: $(RUN) ## Run only Flower, beside a fleet that runs elsewhere.
	@$(BIN)/seawall dashboard

migrate: $(RUN) ## Apply the SQL migrations.
	@$(BIN)/seawall migrate up

migrate-lint: $(DEV) ## Look for dangerous locks in the SQL migrations.
	$(BIN)/squawk migrations/*.up.sql workers/migrations/*.up.sql

demo: $(RUN) ## Import real public data through the running fleet.
	@$(BIN)/seawall demo import

tour: $(RUN) ## See what happens when things go wrong, on servers of its own.
	@$(BIN)/seawall demo tour

test: $(DEV) ## Run the tests, in random order and in parallel.
	$(BIN)/pytest -n $(JOBS) -m "not slow and not rabbitmq"

$(OLDEST)/.installed: deploy/locks/oldest.txt pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r deploy/locks/oldest.txt
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

test-matrix: $(DEV) $(OLDEST)/.installed ## Run most tests with the oldest versions of Celery and others, and with the newest.
	$(OLDEST)/bin/pytest -n $(JOBS) -m "not slow and not rabbitmq" $(MATRIX)
	$(BIN)/pytest -n $(JOBS) -m "not slow and not rabbitmq" $(MATRIX)

tools: $(DEV) ## Install the tools that observe Celery, for the tests that show what arrives from cells.
	$(FROM_LOCK) deploy/locks/tools.txt

test-all: $(DEV) ## Run the slow tests too, and those that need RabbitMQ or the tools.
	-$(MAKE) tools
	$(BIN)/pytest -n $(JOBS)

# Apart from `test`: measuring doubles the work, and coverage.py's lock can outlive a fork and hang the child.
coverage: $(DEV) ## Run the tests and show the lines and branches they leave out.
	$(BIN)/pytest -n $(JOBS) -m "not slow and not rabbitmq" --cov --cov-report=term

soak: $(DEV) ## An hour of load with faults, and the account of every task; MINUTES=10 for less.
	PYTHONPATH=tests $(BIN)/python -m support.soak --minutes $(MINUTES)

fuzz: $(DEV) ## Mutated messages through workers of every pool, with an account of each; MESSAGES=1000 for fewer.
	PYTHONPATH=tests $(BIN)/python -m support.fuzz.run --messages $(MESSAGES)

bench: $(DEV) ## Measure what was promised, delivery, workers, all logs and events on, the database, failures and the ledger, texts, outages, breakers.
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/promises.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/delivery.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/submission.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/worker.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/everything.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/database.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/failures.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/texts.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/outage.py
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/breakers.py

check: $(DEV) ## Format, lint, types, layers, documentation, deploy files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/blocks.py
	! $(PIP) check | grep -Ev '^(No broken|celery-batches .* celery<5[.]7)' # see tool.uv in pyproject.toml
	deploy/check

format: $(DEV) ## Format the code and mend what ruff can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV) ## Write the generated pages of docs/.
	$(BIN)/python docs/generate.py

lock: $(DEV) ## Resolve the dependencies again and write deploy/locks/.
	$(PIP) install uv
	printf 'hatchling\neditables\n' | $(LOCK) --extra dev pyproject.toml - -o deploy/locks/dev.txt
	printf 'hatchling\neditables\n' | $(LOCK) pyproject.toml - -c deploy/locks/dev.txt -o deploy/locks/run.txt
	cp deploy/locks/dev.txt deploy/locks/oldest.txt
	printf 'hatchling\neditables\n' | $(LOCK) --extra dev pyproject.toml - -c deploy/locks/oldest.in -o deploy/locks/oldest.txt
	printf 'hatchling\neditables\n' | $(LOCK) --extra tools pyproject.toml - -c deploy/locks/dev.txt -o deploy/locks/tools.txt

clean: ## Remove the virtual environment, caches and the embedded servers' files.
	rm -rf $(VENV) $(OLDEST) .seawall build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage*
