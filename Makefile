# Two commands do all the set-up: `make train` runs the main job, `make test` the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# The script's `python` is the one found on PATH, as in an activated virtual environment.
export PATH := $(BIN):$(PATH)

.PHONY: train test test-again test-slow test-long test-live lint install host-tools

train: install
	sojourn train

# Most tests wait for processes, so more of them run than there are cores.
PYTEST := python -m pytest -q
CROWD := $(PYTEST) -n 4 --dist loadfile
ALONE := $(PYTEST) --last-failed --last-failed-no-failures none
# Images for containers often forbid Python to keep what it compiled; each process would compile all tests anew.
unexport PYTHONDONTWRITEBYTECODE

test: install host-tools
	$(CROWD) -m "not slow" --junitxml=build/tests.xml
	python .ci/results.py budgets .ci/budgets build/tests.xml

# Those that failed, one at a time.
test-again: install
	$(ALONE) -m "not slow" --junitxml=build/tests-again.xml

# What `make test` leaves out. What failed in the crowd is named, and tried once more, alone.
test-slow: install host-tools
	$(CROWD) -m slow --junitxml=build/slow.xml || \
	{ python .ci/results.py few build/slow.xml && $(ALONE) -m slow --junitxml=build/slow-again.xml; }

# Rents machines in the Amazon account of your credentials, for about a cent, where SOJOURN_LIVE=aws says so.
test-live: install
	python -m pytest -v -s -rs -x tests/live

# All of them, likewise; their table of times goes into the documentation.
test-long: install host-tools
	$(CROWD) --junitxml=build/all.xml || \
	{ python .ci/results.py few build/all.xml && $(ALONE) --junitxml=build/all-again.xml; }
	python .ci/results.py table build/all.xml > docs/tests.md

# Which test notices when a guard against machines that stay behind is taken away; written into the documentation.
guards: install
	python tests/mutation/run.py --write

lint: install
	ruff check .
	ruff format --check .
	mypy

# Machines of the stand-in for Amazon are namespaces of this one. Without root their tests are skipped, and say so.
host-tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! (command -v ip && command -v iptables) >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends iproute2 iptables; \
	fi

install: $(VENV)/installed

# torch comes first, by its exact version, so that nothing else chooses a build of it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
