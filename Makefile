PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# So many test processes: more than two cores need, as many tests only wait, for an Airflow or a browser.
WORKERS ?= 3
# The tests of a file stay together: they share what is dear to start. The order of the files is that of
# tests/conftest.py: the longest first.
SPREAD = --dist loadfile --no-loadscope-reorder --numprocesses $(WORKERS)
# JavaScript and CSS
PAGE = airflow_provider_nexthink/plugins/static tests/js

# The tests start hundreds of processes that import the same files.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-unit bench growth coverage test-services test-browser matrix matrix-ci lint lint-forge format pages public-names docs build release clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | column -t -s '	'

# The environment, made anew only when what it is made of changes. pip takes four times as long as uv, but knows the
# package index that its own settings name, where uv may find none.
$(READY): WANTED = --quiet --constraint constraints.txt --editable '.[dev]'
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip uv
	$(BIN)/uv pip install --python $(BIN)/python $(WANTED) || $(BIN)/python -m pip install $(WANTED)
	@# Without what it depends on: mysqlclient must be compiled, and the tests use another driver.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps apache-airflow-providers-mysql
	@touch $@

demo: $(READY) ## Run the lifecycle Dag through four weeks, in a real Airflow against the sandbox tenant.
	@$(BIN)/python -m airflow_provider_nexthink.sandbox.demo

test: $(READY) ## Run all tests that need no outside service.
	$(BIN)/python -m pytest $(SPREAD) -m 'not service' --ignore tests/browser

test-unit: $(READY) ## Run the unit tests but the slow ones, in under a minute.
	$(BIN)/python -m pytest $(SPREAD) tests/unit -m 'not slow'

bench: $(READY) ## Measure speed, processor time and memory, and write docs/speed.md (about 20 minutes).
	$(BIN)/python -m tests.benchmarks

growth: $(READY) ## Measure the Dag for lists of any length up to ten million devices, and write docs/scaling-out.md.
	$(BIN)/python -m tests.benchmarks.growth

coverage: $(READY) ## Say which lines no unit test runs (half as much again as the tests alone).
	$(BIN)/python -m pytest $(SPREAD) tests/unit tests/contract -m 'not service' --cov --cov-report=term

test-services: $(READY) ## Run the tests that need PostgreSQL, MariaDB, Redis and squid.
	$(BIN)/python -m pytest $(SPREAD) tests/system tests/unit/ledger -m service

test-browser: $(READY) ## Run the tests that use Airflow's pages in Chromium.
	$(BIN)/python -m pytest $(SPREAD) tests/browser

matrix: $(READY) ## Run the main job on Airflow 3.1 to 3.3 and Python 3.11 to 3.13; write the tables of versions.
	@$(BIN)/python tests/matrix/run.py

matrix-ci: $(READY) ## Run the oldest and the newest of these versions only.
	@$(BIN)/python tests/matrix/run.py --ci

lint: $(READY) lint-forge ## Check style, formatting, spelling, types, the import rules and the files of the forge.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/oxlint $(PAGE)
	$(BIN)/oxfmt --check $(PAGE)
	$(BIN)/lint-imports
	$(BIN)/mypy

lint-forge: $(READY)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/pre-commit validate-config

format: $(READY) ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/oxfmt $(PAGE)

docs: $(READY) ## Build the documentation into site/.
	$(BIN)/zensical build --strict --clean

pages: $(READY) ## Write the example Dags into their pages.
	$(BIN)/python -m tests.tools.dag_pages

public-names: $(READY) ## Accept a change of the public names: write them into tests/public_names.txt.
	$(BIN)/python -m tests.tools.public_names

build: $(READY) ## Build the wheel and the source distribution into dist/.
	$(BIN)/python -m build

release: $(READY) ## A dry release: check, build, and say what is left to do. Publishes nothing.
	@$(BIN)/python -m tests.tools.release

clean: ## Remove everything that the other commands made.
	rm -rf $(VENV) .demo .matrix .coverage* build dist site .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
