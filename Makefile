# make demo     install, then the whole job on embedded real data; prints the path of runs/demo/report.html
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

.PHONY: help install install-dev demo test lint format clean

help:
	@sed -n 's/^# make/make/p' Makefile

install:
	@VENV=$(VENV) TORCH=$(TORCH) bash tools/install.sh demo

install-dev:
	@VENV=$(VENV) TORCH=$(TORCH) bash tools/install.sh dev

demo: install
	@LOOKSAY_INSTALL_SECONDS=$$(cat $(VENV)/install-seconds) $(VENV)/bin/looksay demo

test: install-dev
	@$(PY) -m pytest tests

lint: install-dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

format: install-dev
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
