# Every command does its own set-up, once. Nothing outside this folder is touched, but for a few packages,
# and those only as root on Debian: the data set's own (make data), PostgreSQL (make test-field), and ssh,
# rsync and iproute2 (make test-cluster).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .make

.PHONY: help setup data study test test-field test-faults test-cluster paper-quick check bench clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMPS)/setup  ## make .venv with the tested versions

$(STAMPS)/setup: pyproject.toml constraints.txt
	@mkdir -p $(STAMPS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed \
	    --constraint constraints.txt --editable ".[dev,cluster]"
	@touch $@

data: $(STAMPS)/data  ## find or fetch Fashion-MNIST

$(STAMPS)/data: $(STAMPS)/setup
	@if [ -n "$$TUNE_DDVAE_DATA" ] || [ -d /usr/share/datasets/fashion-mnist ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist; fi
	$(BIN)/python -m tune_ddvae.data
	@touch $@

study: $(STAMPS)/data  ## the sparsity study on real Fashion-MNIST, in its quick size
	$(BIN)/python -m tune_ddvae.study sparsity --quick

test: $(STAMPS)/setup  ## all tests but the long ones
	@$(MAKE) --no-print-directory data || echo "no Fashion-MNIST to be had: its own tests are skipped"
	$(BIN)/python -m pytest -m "not field and not faults and not cluster"

test-field: $(STAMPS)/data  ## the tests that need more real studies
	@if ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq postgresql \
	        || echo "no PostgreSQL to be had: its own tests are skipped"; fi
	$(BIN)/python -m pytest -m field

test-faults: $(STAMPS)/setup  ## studies under kills, freezes and full disks; says what was lost
	@rm -f $(STAMPS)/faults.txt
	@$(BIN)/python -m pytest -m faults tests/faults -n 2 --dist=loadfile; code=$$?; cat $(STAMPS)/faults.txt; exit $$code

test-cluster: $(STAMPS)/setup  ## studies on three hosts, as network namespaces (root, Debian's packages)
	@if command -v ip >/dev/null && command -v rsync >/dev/null && test -x /usr/sbin/sshd; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq openssh-server openssh-client rsync iproute2 \
	        || echo "not all packages are to be had: the tests are skipped"; fi
	$(BIN)/python -m pytest -m cluster tests/cluster

paper-quick: $(STAMPS)/data  ## every figure of the paper, in a reduced size
	$(BIN)/python -m tune_ddvae.paper --quick

check: $(STAMPS)/setup  ## lint, types, import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMPS)/data  ## the figures of the README, each beside its plain version or limit
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; \
	    $(BIN)/python -m tests.benchmarks.$$(basename $$file .py) || exit 1; done

clean:  ## remove what make made, but no study
	rm -rf $(VENV) $(STAMPS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info build dist
