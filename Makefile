PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test learn lint clean

demo: $(READY)  ## the main job on scikit-learn's digits, in a few minutes on two CPU cores
	$(BIN)/python examples/demo.py --out runs/demo

test: $(READY)  ## every test but the slow learning runs
	$(BIN)/python -m pytest -n auto

learn: $(READY)  ## the slow runs that show that methods learn
	$(BIN)/python -m pytest -m learn -n 0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# An interpreter of another environment must not leak in, and a half-made environment must not count as made.
$(READY): pyproject.toml tacit/__init__.py
	$(PYTHON) -c "import sys; sys.exit('Tacit needs Python 3.11 or newer; say which by: make PYTHON=python3.12 …' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) runs
