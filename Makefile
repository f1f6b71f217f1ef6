# Two commands do everything: `make quickstart` and `make test`. Both create the environment first if need be.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STUDY  ?= quickstart
BUDGET ?= 10m

.PHONY: quickstart test lint types unit slow coverage mutation docs clean

quickstart: $(VENV)/installed
	$(BIN)/allometry run $(STUDY) --budget $(BUDGET)

# Types are checked beside the tests: the checker has one process.
test: lint
	$(MAKE) --no-print-directory --jobs 2 types unit

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/mypy

# Python keeps what it compiled, whatever the environment says: hundreds of processes start in the tests.
unit slow: export PYTHONDONTWRITEBYTECODE =
unit: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist worksteal

# What takes minutes: every study end to end, clusters, sanitizers, other processors, whole figures in a browser.
slow: $(VENV)/dev
	$(BIN)/pytest -m slow --timeout 3600 --durations=20

# Lines that the tests of `make test` run, also in the processes that they start; fails below 90 %.
coverage: $(VENV)/dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Forty changes of laws and analyses, drawn at random; fails if the tests notice fewer than 85 % of them.
mutation: $(VENV)/dev
	$(BIN)/python benchmarks/mutation.py

# constraints.txt keeps CPU machines from downloading CUDA: it pins the release that has a CPU build.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/install.py $(BIN)/python '.[train]'
	touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python tools/install.py $(BIN)/python '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
