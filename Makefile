# make help lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow test-real lint types docs docs-serve ci format bench-spectrum bench-calibration bench-train bench-evaluation bench-scale wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

$(BIN)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, {v[0]}.{v[1]} was found: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,local-models,sweeps]'
	touch $@

install: $(BIN)/.installed  ## make .venv with the pinned versions of constraints.txt

run: install  ## the main job on the embedded model: analyse, allocate, fine-tune, evaluate
	$(BIN)/python -m spectral_ft.run

test: install  ## the default suite, one process a core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: install  ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto

test-real: install  ## the tests on real checkpoints and data, where the folders exist
	$(BIN)/python -m pytest -m real_model

lint: install  ## ruff: style, docstrings, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy
	$(BIN)/mypy

format: install  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## the documentation site, in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: install  ## the site while you write, on this machine
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

ci: lint types docs test  ## what the CI runs

$(BIN)/.bench-installed: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

MODEL ?= ../models/smollm2-135m
DATA ?= ../shared/data/gsm8k
DATA_DIR ?= ../shared/data

bench-spectrum: $(BIN)/.bench-installed  ## time and memory of the spectral stage beside its peers (MODEL=FOLDER)
	$(BIN)/python bench/spectrum.py --model $(MODEL)

bench-calibration: $(BIN)/.bench-installed  ## spikes found in noise and planted in it, beside the peers
	$(BIN)/python bench/calibration.py

bench-train: $(BIN)/.bench-installed  ## CPU time, memory and losses of training beside PEFT and Trainer (MODEL=FOLDER DATA=GSM8K_FOLDER)
	OMP_NUM_THREADS=1 $(BIN)/python bench/train.py --model $(MODEL) --data $(DATA)

bench-evaluation: $(BIN)/.bench-installed  ## answers and time of scoring beside a bare lm-eval (MODEL=FOLDER DATA_DIR=FOLDER)
	OMP_NUM_THREADS=1 $(BIN)/python bench/evaluation.py --model $(MODEL) --data $(DATA_DIR)

BLOCKS ?= 8
SCRATCH ?= ../bench-scale

bench-scale: $(BIN)/.bench-installed  ## the whole job at Llama-2-7B's width in 4 bits on a CPU, stage by stage (BLOCKS=1..32 SCRATCH=FOLDER)
	$(BIN)/python bench/scale.py --folder $(SCRATCH) --blocks $(BLOCKS)

wheel: install  ## build dist/*.whl, which carries conf/ and the embedded model
	$(BIN)/python -m build --wheel

clean:  ## remove what was built; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
