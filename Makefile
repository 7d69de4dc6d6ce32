# The two commands to know are `make demo` and `make test`. Each sets up what it needs in .venv and a per-user cache.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The tests of a module stay together, because they share a proxy. How many workers, and in what order: tests/conftest.py.
PYTEST_ARGS ?= --numprocesses auto --dist loadscope --no-loadscope-reorder
# Run once more without the product's `assert` statements: nothing may depend on one. (pytest keeps those of the tests.)
OPTIMISED := -W "ignore:assertions not in test modules:pytest.PytestConfigWarning" \
  $(addprefix tests/,config credential identity kernel verify)
# What is installed is pinned by name and version; where it comes from is the machine's business.
PINS   := deploy/constraints.txt
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint $(PINS)

export OSTIARY_OPA

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench bench-full profile bench-rego bench-policy bench-revoke tools manifests docs sbom dist opa clean constraints loris fuzz soak attacks

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ostiary needs Python 3.11 or newer; say which with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --group bench
	@touch $@

opa: $(VENV)/.run ## find or install Open Policy Agent
	@$(BIN)/ostiary opa install >/dev/null

tools: $(VENV)/.dev ## build the Go programs that tests run: helm, an OCI registry, promtool
	@PYTHONPATH=tests $(BIN)/python -m support.tools

demo: opa ## run the demo: issuer, three services, OPA and the proxy
	@$(BIN)/ostiary demo

# Hundreds of processes are started: each would compile the package anew where the environment says not to keep it.
test soak attacks: export PYTHONDONTWRITEBYTECODE :=

# What failed is tried once more, by itself: on a machine with much else to do, a neighbour makes deadlines pass.
test: $(VENV)/.dev opa tools ## run all tests, of the Rego and of the Python
	@opa="$$($(BIN)/ostiary opa install --quiet)" && "$$opa" test rego
	$(BIN)/python -m pytest $(PYTEST_ARGS) || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none
	PYTHONOPTIMIZE=1 $(BIN)/python -m pytest -q $(PYTEST_ARGS) $(OPTIMISED)

MINUTES ?= 10
soak: $(VENV)/.dev opa ## mixed traffic and faults for ten minutes, and five hundred deaths; MINUTES=, SEED=, SEEDS="-k '[3]'"
	PYTHONPATH=.:tests $(BIN)/python -m soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m pytest -o 'python_files=soak_*.py' --numprocesses auto --dist load $(SEEDS) tests/soak

check: $(VENV)/.dev opa ## format, lint, types, Rego and import rules
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	@opa="$$($(BIN)/ostiary opa install --quiet)" \
	  && "$$opa" fmt --list --fail rego bundles \
	  && "$$opa" check --strict rego \
	  && "$$opa" check --strict rego bundles/demo
	$(BIN)/python -m pytest -q tests/test_architecture.py

attacks: $(VENV)/.dev opa ## try the attack corpora on the proxy; CORPUS=file for another
	PYTHONPATH=tests $(BIN)/python -m attacks.runner $(CORPUS) $(ATTACKS_ARGS)

format: $(VENV)/.dev opa ## format Python and Rego
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	@"$$($(BIN)/ostiary opa install --quiet)" fmt --write rego bundles

bench: $(VENV)/.bench opa ## the targets, beside plain Envoy on the same core in one run
	$(BIN)/python -m benchmarks.gate

bench-full: $(VENV)/.bench opa ## the whole picture, in minutes; SECTIONS="ladder mix" for some of it
	$(BIN)/python -m benchmarks.full $(SECTIONS)

profile: $(VENV)/.bench opa ## where the CPU time of the hot path goes
	$(BIN)/python -m benchmarks.profiling

loris: $(VENV)/.bench opa ## what two thousand slow clients do to good ones, in a minute
	$(BIN)/python -m benchmarks.loris

fuzz: $(VENV)/.dev ## a million random cases, on all cores; CASES=, SEED=, TARGET= choose
	PYTHONPATH=tests $(BIN)/python -m fuzz --cases $(or $(CASES),1000000) $(if $(SEED),--seed $(SEED)) $(if $(TARGET),--target $(TARGET))

bench-rego: $(VENV)/.run opa ## what 100,000 permissions cost in OPA; PARTS="memory batch" for some of it, or --sizes
	$(BIN)/python -m benchmarks.rego $(PARTS)

bench-policy: $(VENV)/.run ## what the tools for policy cost with 100,000 permissions; PARTS=diff for some of it
	$(BIN)/python -m benchmarks.policy $(PARTS)

bench-revoke: $(VENV)/.bench opa ## how fast access is given and taken away; TRIALS=100, PARTS="revoking streams" for some of it
	PYTHONPATH=tests $(BIN)/python -m benchmarks.revoke $(if $(TRIALS),--trials $(TRIALS)) $(PARTS)

docs: $(VENV)/.dev ## the pages as a site, in build/site
	$(BIN)/python deploy/site/build.py

manifests: $(VENV)/.dev ## render deploy/kubernetes from the chart
	OSTIARY_MANIFESTS=write $(BIN)/python -m pytest -q tests/deploy/test_helm.py -k raw_manifests

sbom: $(VENV)/.dev ## a CycloneDX document of what a deployment runs, in build/sbom.cdx.json
	rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	$(BIN)/python -m pip --python build/sbom install --quiet --constraint $(PINS) .
	$(BIN)/python deploy/sbom.py build/sbom > build/sbom.cdx.json

dist: $(VENV)/.dev ## wheel and sdist
	$(BIN)/python -m build --quiet

constraints: ## pin what a fresh install resolves to now
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --quiet --upgrade pip
	build/pins/bin/python -m pip install --quiet --editable . --group dev --group bench
	build/pins/bin/python -m pip list --format freeze --exclude-editable | grep -v '^setuptools==' > $(PINS)

clean: ## remove what was made here
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
