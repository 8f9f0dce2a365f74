# Two commands do everything: `make demo` and `make test`. Both make .venv and install first.

PYTHON ?= python3
PY := .venv/bin/python
# DeepSpeed's kernels are compiled for this environment, and no other's interrupted compile can hold them up.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.venv/torch_extensions

.PHONY: demo test check soak lint install clean

install: .venv/installed

# torch comes first and pinned: anything else that asks for it would bring the newest build and its CUDA packages.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "align needs Python 3.11 or newer: make PYTHON=python3.12"'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,qlora,review]'
	touch $@

demo: install
	$(PY) launch/pipeline.py pipeline=demo

test: check libaio postgresql chromium kernels
	$(PY) -m pytest -m slow --durations=15

check: install lint
	$(PY) -m pytest -m 'not slow' --numprocesses auto --maxprocesses 8 --dist worksteal

# Kills runs of every stage at many moments and compares each with the run that was never killed.
soak: install kernels
	$(PY) benchmarks/soak.py

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# DeepSpeed's NVMe offload compiles against libaio.
.PHONY: libaio
libaio:
	@echo '#include <libaio.h>' | $${CC:-cc} -E - >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq libaio-dev >/dev/null; } || \
	  { echo 'error: the NVMe offload test needs libaio; install it: sudo apt-get install libaio-dev' >&2; exit 1; }

# The review app's tests run on a PostgreSQL and in a browser of their own.
.PHONY: postgresql chromium
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq postgresql >/dev/null; } || \
	  { echo 'error: the review tests need PostgreSQL; install it: sudo apt-get install postgresql' >&2; exit 1; }

chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  { echo 'error: the browser tests need Chromium; install it: sudo apt-get install chromium' >&2; exit 1; }

# Compiled here and not in a test, whose time limit would cut a compile off.
.PHONY: kernels
kernels: install libaio
	$(PY) -m align.distributed.kernels

clean:
	rm -rf .venv build *.egg-info
