# `make demo` and `make test` do all the set-up: an environment in .venv, made once.
# Needs Python >= 3.10 with its venv module; another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
OUT ?= out/demo

# One test process per core, one thread each: the networks of the tests are too small for more threads.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, len(getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))(0))))" 2>/dev/null || echo 2)
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
PYTEST := $(TEST_ENV) $(RUN) -m pytest -q -n $(WORKERS) --dist worksteal

# ComfyUI's own command line, in an environment of its own: it needs much that the pack does not.
COMFY_CLI_VENV := .venv-comfy-cli
COMFY_CLI := $(COMFY_CLI_VENV)/bin/comfy
COMFY_CLI_READY := $(COMFY_CLI_VENV)/.ready

.PHONY: demo test test-slow test-gpu test-golden test-live test-live-slow lint types format setup comfy-cli validate clean

demo: $(READY)
	@$(RUN) -m oneshot_core demo --out $(OUT)

test: $(READY)
	$(PYTEST) -m "not slow" tests/core tests/nodes

test-slow: $(READY)
	$(PYTEST) -m "slow and not golden" tests/core tests/nodes

test-golden: $(READY)
	$(PYTEST) -m golden tests/core

# Needs a CUDA device; without one every test is skipped, and the summary says so.
test-gpu: $(READY)
	$(TEST_ENV) $(RUN) -m pytest -v tests/gpu

# On a real ComfyUI: COMFYUI_PATH (several, joined by ":"), else two folders up, else ~/comfy/ComfyUI. Two
# versions are tested at once, each by a process of its own: a server computes with one thread.
test-live: $(READY)
	PYTHONDONTWRITEBYTECODE=1 $(RUN) -m pytest -q -n 2 -m "not slow" tests/live

# Hundreds of prompts: what a server keeps of them.
test-live-slow: $(READY)
	PYTHONDONTWRITEBYTECODE=1 $(RUN) -m pytest -q -s -m slow tests/live

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(MAKE) types

# The nodes import the engine as ComfyUI loads it, from the package that the repository's folder is; a link
# gives that folder a name that Python takes.
types: $(READY)
	@rm -rf build/types && mkdir -p build/types && ln -s "$(CURDIR)" build/types/pack
	cd build/types && "$(CURDIR)/$(RUN)" -m mypy --config-file "$(CURDIR)/pyproject.toml" \
	  --cache-dir "$(CURDIR)/.mypy_cache" pack/oneshot_core pack/nodes

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# What the registry checks before it takes a version; a warning fails too.
validate: $(COMFY_CLI_READY)
	@told=$$(HOME=$(abspath $(COMFY_CLI_VENV)) DO_NOT_TRACK=1 NO_COLOR=1 $(COMFY_CLI) --skip-prompt node validate 2>&1); \
	  code=$$?; echo "$$told"; [ $$code -eq 0 ] && ! echo "$$told" | grep -qi "warning"

comfy-cli: $(COMFY_CLI_READY)

$(COMFY_CLI_READY):
	@$(PYTHON) -m venv --clear $(COMFY_CLI_VENV)
	@$(COMFY_CLI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "comfy-cli==1.23.0"
	@touch $(COMFY_CLI_READY)

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "Python 3.10 or newer is needed; name one: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "the venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing into $(VENV); torch is large, so the first time takes some minutes"
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) $(COMFY_CLI_VENV) out build .mypy_cache .ruff_cache *.egg-info
