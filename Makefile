# Two commands do everything: `make quickstart` and `make test`. Both create the environment first if need be.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STUDY  ?= quickstart
BUDGET ?= 10m

.PHONY: quickstart test lint types unit slow docs clean

quickstart: $(VENV)/installed
	$(BIN)/allometry run $(STUDY) --budget $(BUDGET)

test: lint types unit

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/mypy

unit: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist worksteal

slow: $(VENV)/dev
	$(BIN)/pytest -m slow

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
