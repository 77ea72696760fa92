# Tools for whoever changes the code: .venv, lint, types, unit tests.

VENV := .venv
PY := $(VENV)/bin/python
DEV_PACKAGES := python3 python3-venv shellcheck
# Debian's own, not whatever comes first in PATH: the product runs on it
DEBIAN_PYTHON := /usr/bin/python3
SHELL_FILES := mk/packages mk/build-deb .ci/run \
	guest/read-ahead $(wildcard debian/*.prerm debian/*.postinst debian/*.postrm debian/*.preinst) \
	$(wildcard debian/*.bash-completion) \
	$(shell grep -lE '^\#!/bin/(ba)?sh' hooks/* 2>/dev/null)

.PHONY: venv lint unit format
venv: $(VENV)/.ready

$(VENV)/.ready: requirements-dev.txt
	@mk/packages $(DEV_PACKAGES)
	@test -x $(PY) || $(DEBIAN_PYTHON) -m venv $(VENV)
	@$(PY) -m pip --quiet --quiet --disable-pip-version-check install --requirement requirements-dev.txt
	@touch $@

lint: venv
	@mk/packages shellcheck
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/mypy --strict --no-error-summary xenhelper
	shellcheck $(SHELL_FILES)

format: venv
	$(VENV)/bin/ruff check --quiet --fix .
	$(VENV)/bin/ruff format --quiet .

# schedules over simulated hosts, as many as asked: make soak SCHEDULES=1000000 SEED=7
.PHONY: soak
soak: venv
	$(PY) -m tests.sim soak --keep-going --schedules $(or $(SCHEDULES),200000) --seed $(or $(SEED),1)

unit: venv
	$(PY) -m pytest -q tests/unit

# the same inputs as `make unit` makes, but new ones and many: FUZZ for each of the tests
.PHONY: fuzz
FUZZ ?= 7000
fuzz: venv
	XENHELPER_FUZZ=$(FUZZ) $(PY) -m pytest -q tests/unit/test_fuzz_text.py tests/unit/test_fuzz_peer.py
