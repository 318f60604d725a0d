# Two commands do all the set-up: `make train` runs the main job, `make test` the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# The script's `python` is the one found on PATH, as in an activated virtual environment.
export PATH := $(BIN):$(PATH)

.PHONY: train test test-long lint install

train: install
	sojourn train

# Most tests wait for processes, so more of them run than there are cores.
PYTEST := python -m pytest -q -n 4 --dist loadfile --junitxml=build/tests.xml

test: install
	$(PYTEST) -m "not slow"

# The rest too; its table of times goes into the documentation.
test-long: install
	$(PYTEST)
	python .ci/results.py table build/tests.xml > docs/tests.md

lint: install
	ruff check .
	ruff format --check .
	mypy

install: $(VENV)/installed

# torch comes first, by its exact version, so that nothing else chooses a build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
