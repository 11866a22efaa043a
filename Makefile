# `make run` starts the plant, `make test` runs every check of CI, `make help` lists all targets.

PYTHON ?= python3
ARGS ?=

# Commands that the machine lacks, and that `tools/need` installs from PyPI.
export PATH := $(PATH):$(CURDIR)/.venv/bin

PY := .venv/bin/python
UV := .venv/bin/uv
STEP := tools/step
WEB := $(wildcard web/package.json)
STATIC := src/tickerplant/api/static/index.html

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: check-deploy check-docs dist docs help run venv web test test-all test-real test-parts lint lint-ruff lint-format lint-mypy lint-imports web-check bench chaos fuzz kafka lock

help:
	@echo "make run     run the whole plant with embedded defaults; ARGS='...' are options of \`tickerplant up\`"
	@echo "make test    run every check of CI: style, types, imports between packages, dashboard, tests"
	@echo "make test-all  like make test, with more examples and kills, and with the tests that need minutes"
	@echo "make test-real DATA=FOLDER  check your own CSV and Parquet files; ZONE=... for times without a zone"
	@echo "make lint    check style, types and imports only"
	@echo "make venv    create the developers' environment, .venv"
	@echo "make web     build the dashboard into the package"
	@echo "make check-postgres  run the tests of the store on PostgreSQL 15 to 18, and move rows between versions"
	@echo "make dist    build and check the wheel and the sdist: metadata, contents, installation, first candles"
	@echo "make check-deploy  check the Dockerfile, compose files, chart, unit, alert rules and boards"
	@echo "make docs    build the site of docs/ into .data/site, and check its links"
	@echo "make check-docs  execute every code block of docs/ and README.md; takes minutes"
	@echo "make bench   run the benchmarks; ARGS='...' are their options; ARGS=--list lists them"
	@echo "make bench ARGS='compare REF [BENCH ...]'  run benchmarks on two commits in turn and print ratios"
	@echo "make bench ARGS='table [ROW ...]'  measure the aims in docs/benchmarks.md"
	@echo "make chaos   kill processes at 25 new moments; KILLS=n sets the number, SEED=n repeats a run"
	@echo "make fuzz    fuzz the parsers with mutated vendor answers; RUNS=n payloads for each parser (100000)"
	@echo "make kafka   start one Kafka broker in the background"
	@echo "make lock    write the locked requirements from pyproject.toml; ARGS=--upgrade upgrades them"

# --- environment ------------------------------------------------------------------------------------------------------
# Two stamps: `make run` installs only what the plant needs. uv needs a third of pip's time. pip installs uv, checked by
# hash like all other packages.

.venv/.installer: tools/requirements-install.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tickerplant needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@$(STEP) "create .venv" $(PYTHON) -m venv .venv
	@$(STEP) "install the installer" $(PY) -m pip install -q --require-hashes -r tools/requirements-install.txt
	@touch $@

.venv/.runtime: .venv/.installer requirements.txt pyproject.toml
	@$(STEP) "install what the plant needs" $(UV) pip install --python $(PY) --require-hashes -r requirements.txt
	@$(STEP) "install the plant" $(UV) pip install --python $(PY) --no-build-isolation --no-deps -e .
	@touch $@

.venv/.dev: .venv/.runtime requirements-dev.txt
	@$(STEP) "install what the checks need" $(UV) pip install --python $(PY) --require-hashes -r requirements-dev.txt
	@touch $@

# --no-deps: the lock overrides csp's requirement of PyArrow, see pyproject.toml.
.venv/.bench: .venv/.dev requirements-bench.txt
	@$(STEP) "install the systems to compare with" \
		$(UV) pip install --python $(PY) --no-deps --require-hashes -r requirements-bench.txt
	@touch $@

venv: .venv/.dev

COMPILE = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock"

# Keeps locked versions if possible. ARGS=--upgrade selects the newest version of each package.
# The environment of `make run` has all extras except ccxt.
RUN_EXTRAS = --extra calendars --extra kafka --extra yahoo

lock: .venv/.installer
	@$(COMPILE) $(ARGS) $(RUN_EXTRAS) pyproject.toml -o requirements.txt
	@$(COMPILE) $(ARGS) --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	@$(COMPILE) $(ARGS) $(RUN_EXTRAS) --extra bench -c requirements-dev.txt pyproject.toml -o requirements-bench.txt
	@$(COMPILE) $(ARGS) -c requirements-dev.txt tools/requirements-install.in -o tools/requirements-install.txt
	@for name in dist node java deploy docs; do \
		$(COMPILE) $(ARGS) -c requirements-dev.txt tools/requirements-$$name.in -o tools/requirements-$$name.txt || exit 1; \
	done

# --- run --------------------------------------------------------------------------------------------------------------

# Data stays in the clone unless `make run ARGS='--data FOLDER'` or TICKERPLANT_DATA names another folder.
run: export TICKERPLANT_DATA ?= $(CURDIR)/.data/plant

run: .venv/.runtime
	@$(MAKE) --no-print-directory web || { [ -e $(STATIC) ] && echo "  using the dashboard built before"; } || \
		echo "  no dashboard; the API works without it"
	@exec .venv/bin/tickerplant up $(ARGS)

kafka:
	@address=$$(tools/kafka/kafka start) && echo "Kafka runs at $$address; its data is in .data/kafka." && \
		echo "    make run ARGS='--log kafka://$$address'" && echo "    tools/kafka/kafka stop"

# --- dashboard --------------------------------------------------------------------------------------------------------

ifneq ($(WEB),)
web: $(STATIC)
	@:

# Node comes from PyPI if the machine has none. `make run` works without it.
.PHONY: npm
npm: .venv/.installer
	@tools/need npm:npm:node

$(STATIC): web/node_modules/.package-lock.json \
		$(shell find web -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -name '*.tsbuildinfo')
	@$(STEP) "build the dashboard" npm --prefix web run build
	@touch $@

web/node_modules/.package-lock.json: web/package.json web/package-lock.json | npm
	@PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 $(STEP) "install the packages of the dashboard" npm --prefix web ci
	@touch $@

web-check: web
	@$(STEP) "dashboard: types" npm --prefix web run --if-present typecheck
	@CI=true $(STEP) "dashboard: tests" npm --prefix web run --if-present test
else
web web-check:
	@echo "  no folder web/: no dashboard to build or check"
endif

# --- checks -----------------------------------------------------------------------------------------------------------

lint: lint-ruff lint-format lint-mypy lint-imports

lint-ruff: .venv/.dev
	@$(STEP) "ruff check" .venv/bin/ruff check
lint-format: .venv/.dev
	@$(STEP) "ruff format --check" .venv/bin/ruff format --check
lint-mypy: .venv/.dev
	@$(STEP) "mypy" .venv/bin/mypy
lint-imports: .venv/.dev
	@$(STEP) "lint-imports" .venv/bin/lint-imports

tools/timescale/node_modules/.package-lock.json: tools/timescale/package-lock.json | npm
	@$(STEP) "get TimescaleDB for tests" npm --prefix tools/timescale ci
	@touch $@

test-parts: .venv/.dev
	@$(STEP) "find Chromium, Java, Maven, npm and faketime" \
		tools/need npm:npm:node java:default-jre-headless:java chromium:chromium mvn:maven faketime:faketime
	@$(STEP) "get Kafka for tests" tools/kafka/kafka get
	@$(MAKE) --no-print-directory tools/timescale/node_modules/.package-lock.json

# Tests start hundreds of Python processes. Compiled modules are cached also where PYTHONDONTWRITEBYTECODE is set: without
# them each process compiles 900 modules, which is half of its start.
test test-all test-real chaos: export PYTHONPYCACHEPREFIX = $(CURDIR)/.venv/pycache
test test-all test-real chaos: export PYTHONDONTWRITEBYTECODE =

# Two workers per core, because half of the tests wait for processes. At most eight, because each collects all tests.
WORKERS ?= $(shell n=$$((2 * $$(nproc))); echo $$((n < 8 ? n : 8)))
PYTEST = .venv/bin/pytest --no-skips --slowest-files=10 -n $(WORKERS)

# The linters run in parallel with the tests. All checks run even if one fails, so that one run shows all failures.
test: test-parts
	@MAKE="$(MAKE)" tools/beside "lint web-check" $(PYTEST) $(ARGS)

KILLS ?= 25
SEED ?= $(shell date +%N | sed 's/^0*//')

test-all: test-parts
	@CHAOS_KILLS=$(KILLS) CHAOS_SEED=$(SEED) MAKE="$(MAKE)" \
		tools/beside "lint web-check" $(PYTEST) --hypothesis-profile=thorough $(ARGS)

# Properties of real data, checked on the user's files. `make test` needs no such file.
test-real: .venv/.dev
	@[ -n "$(DATA)" ] || { echo "Set DATA to the folder of your files: make test-real DATA=FOLDER [ZONE=America/New_York]"; exit 1; }
	@.venv/bin/pytest tests/real --data "$(DATA)" $(if $(ZONE),--zone "$(ZONE)") $(ARGS)

chaos: test-parts
	@CHAOS_KILLS=$(KILLS) CHAOS_SEED=$(SEED) .venv/bin/pytest --no-skips tests/chaos $(ARGS)

RUNS ?= 100000

# Fuzzes one parser after the other; ARGS selects parsers by name. A payload that breaks a parser is stored in .data/fuzz.
fuzz: .venv/.dev
	@$(PY) tools/fuzz.py --runs $(RUNS) $(ARGS)

bench: .venv/.bench
	@[ -e benchmarks/run.py ] || { echo "  benchmarks/run.py not found"; exit 1; }
	@$(PY) benchmarks/run.py $(ARGS)

# The store on PostgreSQL 15 to 18, and the way from each version to that of the wheel. ARGS are zonky's versions.
.PHONY: check-postgres
check-postgres: .venv/.dev
	@$(PY) tools/postgres/servers.py $(ARGS)

# --- packages ---------------------------------------------------------------------------------------------------------

# ARGS are options of tools/dist.py. The packages are in dist/.
dist: .venv/.installer
	@$(STEP) "install what the packages need" $(UV) pip install --python $(PY) -q --require-hashes \
		-r tools/requirements-dist.txt
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) tools/dist.py $(ARGS)

# --- deployment -------------------------------------------------------------------------------------------------------

# Starts nothing. helm comes from the Go module proxy, unless it is installed.
check-deploy: .venv/.dev
	@$(STEP) "find promtool and systemd-analyze" tools/need promtool:prometheus systemd-analyze:systemd
	@$(STEP) "install what the checks of deploy/ need" $(UV) pip install --python $(PY) -q --require-hashes \
		-r tools/requirements-deploy.txt
	@$(PY) tools/deploy.py

# --- documents --------------------------------------------------------------------------------------------------------

.venv/.docs: .venv/.dev tools/requirements-docs.txt
	@$(STEP) "install the generator of the site" $(UV) pip install --python $(PY) -q --require-hashes \
		-r tools/requirements-docs.txt
	@touch $@

docs: .venv/.docs
	@$(PY) tools/site.py

# Wheels of the plant and its requirements, for the pages' installations. Only this step needs the package index.
WHEELS = .data/docs/wheels

.data/docs/.wheels: .venv/.dev requirements-dev.txt
	@mkdir -p $(WHEELS)
	@$(UV) pip freeze --python $(PY) --exclude-editable > .data/docs/constraints.txt
	@$(STEP) "download the wheels that pages install" $(PY) -m pip download -q --only-binary :all: -d $(WHEELS) \
		--no-deps --require-hashes -r requirements.txt
	@$(STEP) "download the wheels of other extras" $(PY) -m pip download -q --only-binary :all: -d $(WHEELS) \
		-c .data/docs/constraints.txt pip setuptools ccxt
	@touch $@

check-docs: export PYTHONPYCACHEPREFIX = $(CURDIR)/.venv/pycache
check-docs: export PYTHONDONTWRITEBYTECODE =
check-docs: .venv/.docs .data/docs/.wheels web
	@$(STEP) "find Java, pipx and unshare" tools/need java:default-jre-headless:java unshare:util-linux ip:iproute2 \
		mvn:maven psql:postgresql-client nginx:nginx-light curl:curl openssl:openssl
	@$(STEP) "get Kafka for tests" tools/kafka/kafka get
	@$(STEP) "build the wheel" $(UV) build -q --wheel --no-build-isolation --python $(PY) --out-dir $(WHEELS)
	@tools/alone .venv/bin/pytest --no-skips tests/docs/pages --wheels $(WHEELS) $(ARGS)
