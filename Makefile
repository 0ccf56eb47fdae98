PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq

.PHONY: demo test test-slow test-browser docs lint format clean

demo: .venv/.runtime
	@$(BIN)/prunus compare recipes/compare-digits.yaml

# One thread in each of two workers: torch's own threads would compete for the same cores.
test: export OMP_NUM_THREADS = 1
test: lint
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@$(BIN)/pytest --quiet -n 2 --dist worksteal

test-slow: .venv/.development
	@$(BIN)/pytest -m slow

test-browser: .venv/.development
	@$(BIN)/pytest --quiet -m slow tests/test_report_browser.py

docs: .venv/.development
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

lint: .venv/.development
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy

format: .venv/.development
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

clean:
	rm -rf .venv site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The two stamps are what keeps a second run from installing again.
.venv/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("prunus needs Python 3.11 or newer, got " + sys.version.split()[0] + "; name one, as in: make PYTHON=python3.12 demo")'
	@echo "Installing prunus into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) 'pip>=25.1'
	@$(INSTALL) --constraint constraints.txt --editable .
	@touch $@

.venv/.development: .venv/.runtime
	@echo "Installing the development group into .venv"
	@$(INSTALL) --constraint constraints.txt --group dev
	@touch $@
