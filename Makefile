# Each target sets up what it needs on a fresh machine. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
BUILD := .build
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Tests and tools of this project find the floors here.
export WEFT_FLOORS := $(CURDIR)/$(BUILD)/floor

.PHONY: help build demo test test-rdma check sim chaos bench bench-peers format clean

help:  ## lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

build: $(BUILD)/installed  ## makes .venv with Weft installed, its Rust core built

$(BUILD)/tools: constraints.txt pyproject.toml
	@echo "weft: making .venv with the tools (about a minute the first time)"
	@mkdir -p $(BUILD)
	@python3 -c 'import sys; sys.exit("weft needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@command -v cargo >/dev/null || { echo "weft needs a Rust toolchain: install rustup or your system's cargo"; exit 1; }
	@command -v cc >/dev/null || { echo "weft needs a C compiler: install gcc or clang"; exit 1; }
	@test -x $(PYTHON) || python3 -m venv $(VENV) || { echo "weft: python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $$(cut -d= -f1 constraints.txt)
	@touch $@

$(BUILD)/installed: $(BUILD)/tools pyproject.toml Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name 'Cargo.toml')
	@echo "weft: building the Rust core (two minutes the first time)"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(VENV)/bin/maturin develop --release >$(BUILD)/build.log 2>&1 || { cat $(BUILD)/build.log; exit 1; }
	@touch $@

$(BUILD)/engines:
	@mkdir -p $(BUILD)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "weft: installing PostgreSQL for the tests of its journal"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql; } \
	      >$(BUILD)/engines.log 2>&1 || echo "weft: it could not be installed ($(BUILD)/engines.log); its tests skip"; \
	  else echo "weft: no PostgreSQL server here; the tests of its journal skip (on Debian: apt-get install postgresql)"; fi; }
	@touch $@

floors: $(BUILD)/floor/net $(BUILD)/floor/paging $(BUILD)/floor/http $(BUILD)/floor/unpack $(BUILD)/floor/copy

$(BUILD)/floor/%: benches/floor/%.c benches/floor/floor.h
	@mkdir -p $(BUILD)/floor
	@cc -O2 -Wall -Wextra -Werror -pthread $< -o $@

demo: build  ## the story on one machine: memory of one process arrives in another, page by page
	@$(VENV)/bin/weft demo $(FILE)

check: build  ## format, lint, types, import rules
	@echo "weft: checking format, lint and types"
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	@$(VENV)/bin/ruff format --quiet --check python tests benches examples
	@$(VENV)/bin/ruff check --quiet python tests benches examples
	@$(VENV)/bin/mypy
	@$(PYTHON) -m mypy.stubtest weft._native --allowlist tests/house/stubtest.allow --ignore-unused-allowlist
	@$(PYTHON) -m pytest -q tests/house

# The GPU's text is compiled by the tests, which needs no GPU. Without the compiler they skip and say so.
$(BUILD)/gpu: constraints-gpu.txt $(BUILD)/tools
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-gpu.txt && touch $@ || echo "weft: the compiler for the GPU's text is not to be had; its tests skip"

test: check $(BUILD)/engines $(BUILD)/gpu  ## everything: Rust, then Python, one closing line
	@echo "weft: Rust tests"
	@cargo test --quiet --workspace --no-run
	@timeout --kill-after=10 600 cargo test --quiet --workspace || { status=$$?; \
	  test $$status != 124 || echo "weft: a Rust test did not end; each has deadlines, so this is a defect"; exit $$status; }
	@echo "weft: Python tests"
	@$(PYTHON) -m pytest

test-rdma:  ## lanes and links over real verbs, in a small guest whose kernel has RDMA in software; no device needed
	@mkdir -p $(BUILD)
	@echo "weft: building the tests over real verbs"
	@cargo test --release --no-run --package weft-verbs --package weft-engine --test soft_roce >$(BUILD)/soft_roce.log 2>&1 || { cat $(BUILD)/soft_roce.log; exit 1; }
	@python3 -m tests.hardware.guest $$(sed -n 's/.*Executable.*(\(.*\))/\1/p' $(BUILD)/soft_roce.log)

sim: build  ## SEEDS=200 clusters of 50 machines in virtual time, each judged after every step; SEED=7 begins there
	@$(PYTHON) -m weft.testing.sim --jobs $$(nproc) --seeds $(or $(SEEDS),$(if $(SEED),1,200)) $(if $(SEED),--seed $(SEED))

chaos: build  ## coordinators, NATS servers, validators and layers as processes, killed at random for SECONDS=120; SEED=7 picks who
	@$(PYTHON) -m weft.testing.chaos --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

# What figures are printed beside and Weft itself never uses has an environment of its own.
$(BUILD)/fastapi/made: benches/fastapi.txt constraints.txt
	@echo "weft: making an environment with FastAPI in it, to compare with"
	@rm -rf $(BUILD)/fastapi && $(PYTHON) -m venv $(BUILD)/fastapi
	@$(BUILD)/fastapi/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -r benches/fastapi.txt
	@touch $@

bench: build floors $(BUILD)/engines $(BUILD)/fastapi/made  ## the figures, each beside its floor, in one run
	@WEFT_BENCH_FASTAPI=$${WEFT_BENCH_FASTAPI:-$(BUILD)/fastapi/bin/python} $(PYTHON) -m benches

bench-peers: build floors  ## Weft beside NIXL, Mooncake, redis and memcached, round after round, in one table
	@WEFT_PEERS=$(BUILD)/peers $(PYTHON) -m benches.peers

format:  ## formats everything
	@cargo fmt --all
	@$(VENV)/bin/ruff format python tests benches examples
	@$(VENV)/bin/ruff check --fix python tests benches examples

clean:  ## removes what was built
	@rm -rf $(BUILD) $(VENV) target python/weft/_native.abi3.so
