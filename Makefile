# Two commands do everything: `make demo` and `make test`. Both make .venv and install first.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
PY := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: demo test check soak lint install clean

install: .venv/installed

# What pip is doing, a line for each package that it fetches and for each of its longer steps.
PIP := $(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt
PROGRESS := sed -u -n -E '/\.metadata/d; s/^ *((Downloading|Using cached|Building|Installing|Successfully) .{0,100}).*/  \1/p'

# torch comes first and pinned: anything else that asks for it would bring the newest build and its CUDA packages.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: align needs Python 3.11 or newer: make PYTHON=python3.12")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	@echo 'Installing torch, then the other packages, into .venv: 2 GB, one to six minutes.'
	@$(PIP) torch | $(PROGRESS)
	@$(PIP) -e '.[test,qlora,review,docs]' | $(PROGRESS)
	@touch $@

demo: install
	$(PY) launch/pipeline.py pipeline=demo

test: system-check check kernels
	$(PY) -m pytest -m slow --durations=15

check: install lint
	$(PY) -m pytest -m 'not slow' --numprocesses auto --maxprocesses 8 --dist worksteal

# Kills runs of every stage at many moments and compares each with the run that was never killed.
soak: system-check install kernels
	$(PY) benchmarks/soak.py

# Takes each defence against what SECURITY.md names out, in a copy, and sees its test fail: about eight minutes.
.PHONY: defences
defences: install
	$(PY) -m tests.defences

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The documentation's site, in site/; a warning is an error.
.PHONY: docs
docs: install
	$(PY) docs/build/reference.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet -f docs/build/mkdocs.yml

# What the tests need of the system: libaio for DeepSpeed's NVMe offload, a PostgreSQL and a browser for the review app.
SYSTEM_PACKAGES := g++ python3-dev libaio-dev postgresql chromium

.PHONY: system-check system-packages
system-check:
	@missing=; \
	command -v $${CXX:-c++} >/dev/null || missing="$$missing g++"; \
	echo '#include <libaio.h>' | $${CC:-cc} -E - >/dev/null 2>&1 || missing="$$missing libaio-dev"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing="$$missing postgresql"; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  missing="$$missing chromium"; \
	[ -z "$$missing" ] || { echo "error: the tests need these system packages, which are not installed:$$missing;" \
	  "install them with \`make system-packages\` (as root), or run \`make check\`, which needs none" >&2; exit 1; }

system-packages:
	.ci/system-packages $(SYSTEM_PACKAGES)

# Compiled here and not in a test, whose time limit would cut a compile off.
.PHONY: kernels
kernels: install
	$(PY) -m align.distributed.kernels

clean:
	rm -rf .venv build *.egg-info
