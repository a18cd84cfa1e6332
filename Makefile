# The two commands that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# What was installed once stays: `make demo` after `make install CONSTRAINTS=constraints-v100.txt`.
CONSTRAINTS ?= $(or $(patsubst $(VENV)/.installed-%,%,$(wildcard $(VENV)/.installed-*)),constraints.txt)
INSTALLED := $(VENV)/.installed-$(notdir $(CONSTRAINTS))

.PHONY: demo test browser lint install

demo: install
	$(BIN)/python train.py recipes=contrastive domain=statutes model=starter generate=documents \
		generate.pairs=400 $(ARGS) $(if $(limit),limit=$(limit))

# One thread of torch for each of the processes that test: two that share the CPUs wait on each other.
# Bytecode is written, whatever the environment says: tests start hundreds of processes, and each would
# compile the libraries again.
test: install lint
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu"

# Of the tests, those of report and MLflow pages in the system's Chromium; skipped without one.
browser: install
	$(BIN)/pytest -rs -m browser

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	rm -f $(VENV)/.installed*
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint $(CONSTRAINTS) \
		--editable '.[train,evaluate,track,demo,dev]'
	touch $@
