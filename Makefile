# Two commands do all their set-up: `make demo` and `make test`. They need python3 (>= 3.11), make and a package index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The name holds a checksum of what the environment is made from: it is rebuilt when that changes, and only then.
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

# The oldest versions that pyproject.toml allows, in an environment of their own.
OLDEST := .venv-oldest
OLDEST_READY := $(OLDEST)/.ready-$(shell cat pyproject.toml constraints-oldest.txt | cksum | cut -d' ' -f1)

# vLLM for CPUs, with Stet and the plug-in.
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready-$(shell cat pyproject.toml packages/stet-vllm/pyproject.toml packages/stet-vllm/install.py | cksum | cut -d' ' -f1)

# Idle threads sleep: spinning ones make a pass many times slower on a machine with other work.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

# Two processes of one thread each: tiny models gain nothing from a second thread.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

.DEFAULT_GOAL := help
MODELS ?= .cache/models
GSM8K ?=
SPEC_BENCH ?=
PEERS ?=
AXE ?= .cache/axe/node_modules/axe-core/axe.min.js
.PHONY: help demo test test-oldest test-integrations test-ray test-browser test-vllm check lint types bench peers real evidence format docs setup clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## solve bundled problems with and without speculation, and show one answer token by token
	@$(BIN)/stet demo

test: $(READY) lint types docs ## lint, format check, types, documentation check and all tests
	@$(PYTEST)

# Old torch asks addr2line for every line of a traceback, which takes minutes.
test-oldest: export TORCH_DISABLE_ADDR2LINE := 1
test-oldest: BIN := $(OLDEST)/bin
test-oldest: $(OLDEST_READY) ## all tests with the oldest versions allowed, in .venv-oldest (on Linux 7 GB: old torch comes with CUDA)
	@$(PYTEST)

test-integrations: $(READY) ## install lm-evaluation-harness (large) and run its tests too
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,lm-eval]" -c constraints.txt
	@$(PYTEST) tests/integrations tests/docs

test-ray: $(READY) ## install Ray (large) and run the tests of runs on many machines, on a cluster of this one
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,ray]" -c constraints.txt
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/executors

# Tests say themselves what they miss, and are skipped; so nothing here fails where it cannot install.
test-browser: export AXE := $(abspath $(AXE))
test-browser: $(READY) ## install Chromium (Debian, as root) and axe-core (npm), and run the tests of the server's page
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif ! command -v apt-get >/dev/null; then echo "Chromium is not installed here: there is no apt-get."; \
	elif [ "$$(id -u)" != 0 ]; then echo "Chromium is not installed here: that takes root (apt-get install chromium chromium-driver)."; \
	else apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null \
		|| echo "Chromium could not be installed."; fi
	@if [ -f "$(AXE)" ]; then :; \
	elif ! command -v npm >/dev/null; then echo "axe-core is not installed here: there is no npm."; \
	else npm install --silent --no-audit --no-fund --prefix .cache/axe axe-core@4 >/dev/null || echo "axe-core could not be installed."; fi
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser tests/browser

test-vllm: $(VLLM_READY) ## run policies inside vLLM, in .venv-vllm (3.4 GB), on both of its model runners
	@OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q packages/stet-vllm/tests

check: $(READY) lint types ## the quick part of test: lint, format check, types and the unit tests
	@$(PYTEST) -m unit

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)
	@$(BIN)/mypy

docs: $(READY) ## check the documentation: relative links, and that every `stet` command in it parses
	@$(BIN)/python docs/check.py

bench: $(READY) ## run every benchmark but those of peers, other clients and real pairs and record its figures in benchmarks/results
	@set -e; for script in benchmarks/*.py; do \
		case $$script in */_* | */peers.py | */evidence.py | */clients.py) continue ;; esac; \
		echo "== $$script"; $(BIN)/python $$script; \
	done

peers: $(READY) ## speeds beside transformers, llama.cpp, OpenVINO and vLLM (installs them, 5 GB): make peers MODELS=folder [GSM8K=folder] [SPEC_BENCH=file]
	@$(BIN)/python benchmarks/peers.py --models $(MODELS) $(if $(GSM8K),--gsm8k $(GSM8K)) $(if $(SPEC_BENCH),--spec-bench $(SPEC_BENCH)) $(PEERS)

real: $(READY) ## the main job on a real pair: make real MODELS=folder [GSM8K=folder]
	@$(BIN)/python benchmarks/real.py --models $(MODELS) $(if $(GSM8K),--gsm8k $(GSM8K))

evidence: $(READY) ## do the ideas hold on the real pair? Hours; started again it goes on: make evidence [PARTS="tune train"]
	@$(BIN)/python benchmarks/evidence.py --pair real $(PARTS)

format: $(READY) ## format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

setup: $(READY) ## build the environment in .venv

clean: ## remove the environment and all caches
	rm -rf $(VENV) $(OLDEST) $(VLLM) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(VLLM_READY):
	@echo "Setting up $(VLLM) (once; some minutes) ..."
	@$(PYTHON) packages/stet-vllm/install.py $(VLLM)
	@rm -f $(VLLM)/.ready-*
	@touch $@

# torch comes first and alone, so that the build which the index offers for this machine is taken,
# and no later requirement replaces it.
$(READY): CONSTRAINTS := constraints.txt
$(READY): EXTRAS := dev
$(OLDEST_READY): CONSTRAINTS := constraints-oldest.txt
$(OLDEST_READY): EXTRAS := dev,tasks,lm-eval
$(READY) $(OLDEST_READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "Setting up $(@D) (once; some minutes) ..."
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' $(CONSTRAINTS))"
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]" -c $(CONSTRAINTS)
	@rm -f $(@D)/.ready-*
	@touch $@
