# Every target installs what it needs on a Debian machine with git, make, python3 and root.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

include mk/dev.mk
-include mk/lab.mk

BUILD_PACKAGES := build-essential debhelper dh-python fakeroot python3-all python3-setuptools

.PHONY: help deb test demo demo-packages clean
help:
	@echo 'make deb    build dist/xenhelper_VERSION_all.deb, which is what a host installs'
	@echo 'make demo   two Xen hosts in QEMU: create, migrate there and back, with a time line'
	@echo 'make test   lint, types, unit tests, then the core cases on two Xen hosts in QEMU'
	@echo 'make lint   ruff, mypy, shellcheck'
	@echo 'make unit   unit tests only'
	@echo 'make fuzz   over 100,000 inputs to every reader and to the peer channel'
	@echo 'make clean  remove what was built (kept: the lab image cache)'

deb:
	@mk/packages $(BUILD_PACKAGES)
	@mk/build-deb

# one pytest run, so that one closing line counts everything; the lab comes last, and not at
# all when something before it failed (tests/conftest.py)
test: lint deb $(LAB_NEEDS)
	$(PY) -m pytest -q -m 'core or not lab' tests/unit $(wildcard tests/sim tests/contract) \
		$(wildcard tests/lab)

# says first what it needs, and asks before it takes it: so nothing is installed here
demo:
	@python3 -m tests.lab demo

# what the demo will install, for it to say so
demo-packages:
	@echo $(LAB_PACKAGES) $(BUILD_PACKAGES)

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache xenhelper.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
