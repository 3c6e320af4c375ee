# The short commands. Each installs what it needs on Debian 12, 13 and Ubuntu 24.04 (scripts/setup), and does again
# only what has changed since.
#
#     make serve PYTHON=python3.13 BIND=127.0.0.1:8080

PYTHON ?=
BIND ?= 127.0.0.1:8000
export PYTHON

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find server pyglue config cmake CMakeLists.txt setup.py pyproject.toml \
             -name __pycache__ -prune -o -name '*.so' -prune -o -print)
BUILT := $(VENV)/.built# stamps: made after the step, removed with .venv
BUILD_TOOLS := $(VENV)/.build-tools
TEST_TOOLS := $(VENV)/.test-tools
LINT_TOOLS := $(VENV)/.lint-tools

.PHONY: help setup build pgo serve test lint format wheel soak bench bench-quick clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1@/p' Makefile | while IFS=@ read -r name text; do \
	  printf '  make %-11s %s\n' "$$name" "$$text"; done

setup: ## installs what building needs, and makes .venv
	@scripts/setup build

build: setup ## until .venv/bin/licorne works
	@$(MAKE) --no-print-directory --silent $(BUILT)

$(BUILD_TOOLS): scripts/requirements-build.txt
	$(PIP) install --require-hashes -r $<
	touch $@

$(BUILT): $(SOURCES) $(BUILD_TOOLS)
	echo "Building and installing into $(VENV)"
	$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	touch $@

serve: build ## builds, and serves the smallest example
	@echo "Serving examples/hello.py on http://$(BIND)/ : try"
	@echo "    curl -i http://$(BIND)/"
	@echo "and your own: $(VENV)/bin/licorne module:app (--help lists the options). Ctrl-C ends it."
	@exec $(VENV)/bin/licorne hello:app --chdir examples --bind $(BIND)

test: ## installs what testing needs, and runs every check (ONLY="unit python": some; see scripts/test)
	@scripts/setup test
	@$(MAKE) --no-print-directory --silent $(BUILT) $(TEST_TOOLS) $(LINT_TOOLS)
	@scripts/test $(ONLY)

$(TEST_TOOLS): $(wildcard tests/requirements*.txt)
	$(PIP) install $(addprefix -r ,$^)
	touch $@

soak: ## the tests that take minutes: leaks, gigabytes, all disturbances under load
	@scripts/setup soak
	@$(MAKE) --no-print-directory test ONLY=soak

bench: build ## everything, side by side with every other server: hours (see bench/README.md; ROWS="hello post")
	@scripts/setup bench
	@$(VENV)/bin/python bench/run.py $(ROWS)

bench-quick: build ## what says most, in 5 minutes
	@scripts/setup bench
	@$(VENV)/bin/python bench/run.py --quick $(ROWS)

lint: build ## clang-tidy and ruff
	@$(MAKE) --no-print-directory --silent $(LINT_TOOLS)
	@scripts/lint

format: setup ## clang-format and ruff's formatter
	@$(MAKE) --no-print-directory --silent $(LINT_TOOLS)
	@scripts/lint --format

$(LINT_TOOLS): scripts/requirements-lint.txt
	$(PIP) install -r $<
	touch $@

pgo: build ## builds and installs again, optimised by a profile of the hot paths (gcc; takes minutes)
	@scripts/pgo

wheel: build ## dist/*.whl, which needs nothing but the C library where it is installed
	@LICORNE_BUILD_DIR=build/wheel LICORNE_CMAKE_ARGS="-DLICORNE_SYSTEM_LLHTTP=OFF $(LICORNE_CMAKE_ARGS)" \
	  $(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean: ## removes what was built, .venv included
	rm -rf build dist $(VENV)
