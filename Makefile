# Notes That Run: `make` lists what can be made. The work itself is done by the scripts of
# book/_tools, so a machine without make runs the same (README.md, "Windows").

PYTHON ?= python3
ifeq ($(OS),Windows_NT)
PY := .venv/Scripts/python
else
PY := .venv/bin/python
endif

# A reader's own settings must not reach the pages: MPLBACKEND=agg, for one, removes every figure.
unexport MPLBACKEND PYTHONHOME

TESTS := requirements-peers.txt
BENCHMARKS = $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.PHONY: help env env-test book test lab serve notebooks bench gpu-check pdf new-chapter clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

env:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) on the PATH: install Python 3.11, 3.12 or 3.13, or name one with 'make PYTHON=/path/to/python'."; exit 1; }
	@$(PYTHON) book/_tools/install.py

env-test: env
	@$(PYTHON) book/_tools/install.py $(TESTS)

book: env ## execute what changed, build the site into _build/html
	@$(PY) book/_tools/build.py

test: env-test ## ruff, unit tests, doctests, every page under nbval, the checks on the site
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@$(PY) book/_tools/build.py
	$(PY) -m pytest -n 2 --dist loadfile --nbval-lax tests src book

lab: env ## open the pages as notebooks in JupyterLab
	@$(PY) -m jupytext_config --settings-file .venv/etc/jupyter/labconfig/default_setting_overrides.json set-default-viewer markdown myst
	$(PY) -m jupyterlab book

serve: env ## preview the site at http://localhost:8000, rebuilt at every change
	@$(PY) book/_tools/serve.py

notebooks: env ## write the executed notebooks of all pages into _build/notebooks
	@$(PY) book/_tools/notebooks.py

bench: env-test ## measure pages, builds, installation and solvers into benchmarks/results
	@for script in $(BENCHMARKS); do $(PY) $$script || exit 1; done

# No environment is made: on a machine with a GPU, PyTorch for CUDA is often there already.
gpu-check: ## test and time the CUDA kernels on this machine's GPU (options: CHECK="--seconds 300")
	@$(PYTHON) tests/gpu/check.py $(CHECK)

pdf: env ## print the whole book into _build/notes-that-run.pdf (needs Chromium or Chrome)
	@$(PY) book/_tools/pdf.py

new-chapter: ## copy the chapter template: make new-chapter PART=diffusion SLUG=my-note
	@test -n "$(PART)" -a -n "$(SLUG)" || { echo "Say where: make new-chapter PART=diffusion SLUG=my-note"; exit 1; }
	@test ! -e book/$(PART)/$(SLUG).md || { echo "book/$(PART)/$(SLUG).md is there already."; exit 1; }
	@mkdir -p book/$(PART)
	@sed -e 's/new-chapter/$(SLUG)/g' -e "s/2026-01-01/$$(date +%F)/" book/_templates/chapter.md > book/$(PART)/$(SLUG).md
	@echo "Wrote book/$(PART)/$(SLUG).md: the ten steps of CONTRIBUTING.md go on from here."

clean: ## remove everything that was built (the environment stays: delete .venv for that)
	rm -rf _build
