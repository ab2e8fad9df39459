# demo, test and check each make .venv/ from constraints.txt when it is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
export HF_HUB_DISABLE_TELEMETRY = 1
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help demo study-smoke test test-slow test-gpu test-vllm check format bench clean

help:
	@echo "make demo       set up, generate and score pocket pictures, print the table"
	@echo "make study-smoke  train an unguarded and a guarded pocket checkpoint and report on them (minutes)"
	@echo "make test       set up, run all tests that need no GPU and no network"
	@echo "make check      ruff, mypy --strict, fast tests"
	@echo "make test-slow  tests marked slow;  make test-gpu  tests that need a CUDA device"
	@echo "make test-vllm  a judge on a real vLLM server on this CPU, in an environment of its own (.vllm/, 3 minutes)"
	@echo "make bench      generation speed against plain diffusers, and training speed"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,judge,ocr,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/nbench run

study-smoke: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/nbench study smoke --jobs 2

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m "not gpu" tests

test-slow: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m "slow and not gpu" tests

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests

test-vllm: $(STAMP)
	test -f .vllm/.nbench-vllm || $(BIN)/nbench judge install .vllm --cpu
	$(TEST_ENV) NBENCH_VLLM_PYTHON=$(CURDIR)/.vllm/bin/python $(BIN)/python -m pytest -m slow tests/scoring/judge/test_vllm.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu" tests

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/generate.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/train.py

clean:
	rm -rf $(VENV) nbench-store nbench-train nbench-guards nbench-studies .pytest_cache .mypy_cache .ruff_cache
