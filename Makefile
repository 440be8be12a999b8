# Every target sets up what it needs: .venv is filled from requirements.lock once, and again when that file changes.
# uv does it in half a minute. Where only pip is told how to reach a package index, uv cannot, and pip takes its place.
.DEFAULT_GOAL := help
.PHONY: help quickstart bench-smoke bench-speed test test-slow lint format lock clean

# The first of these that is a supported Python makes .venv; `make PYTHON=/path/to/python test` names another.
PYTHON ?= python3 python3.11 python3.12 python3.13 python3.10
BIN := .venv/bin
PROCESSES ?= 2
STAMP := .venv/.installed

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1:\2/p' Makefile | awk -F: '{ printf "%-12s%s\n", $$1, $$2 }'

quickstart: $(STAMP) ## train, evaluate and recommend on a small dataset, on the CPU
	$(BIN)/nestrec quickstart

bench-smoke: $(STAMP) ## five models on MovieLens-100k, two seeds: under five minutes on two cores
	$(BIN)/nestrec benchmark smoke --jobs 2

bench-speed: $(STAMP) ## time us against RecBole; BEAUTY=folder adds Amazon Beauty (see benchmarks/speed.py)
	$(BIN)/python benchmarks/speed.py $(if $(BEAUTY),--beauty $(BEAUTY))

test: lint ## lint, then every test that is not slow; PROCESSES=8 on a larger machine
	$(BIN)/python -m pytest -m "not slow" -n $(PROCESSES)

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP) ## rewrite the code as `make lint` wants it
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

lock: $(STAMP) ## bring requirements.lock up to requirements.in; FLAGS=--upgrade for the newest versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --override overrides.txt $(FLAGS) \
	  --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	  requirements.in -o requirements.lock

clean: ## remove .venv, build output and caches; data and results stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find nestrec_recbole tests -name __pycache__ -prune -exec rm -rf {} +

# Made anew each time, so that nothing is left of an older lock or of an install that broke off. --no-deps: the lock is
# complete, and pip would refuse RecBole's ray next to ours (overrides.txt). Bytecode is compiled here: where
# PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would compile what it imports. The stamp comes
# last: no stamp, no install.
$(STAMP): requirements.lock overrides.txt setup.py
	@found=; for python in $(PYTHON); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  case $$version in 3.10|3.11|3.12|3.13) exec $$python -m venv --clear .venv;; esac; \
	  found="$$found $$python is $$version,"; \
	done; \
	echo "nestrec_recbole needs Python 3.10 to 3.13; found:$${found:- none of $(PYTHON),} try make PYTHON=/path/to/python" >&2; \
	exit 1
	@echo "Filling .venv from requirements.lock: some GB"
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.lock || \
	  $(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q nestrec_recbole
	@touch $@
