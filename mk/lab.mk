# The lab: two real Xen hosts in QEMU. See tests/lab/README.md.
#   RELEASE=bookworm   Debian 12 instead of 13
LAB_PACKAGES := qemu-system-x86 qemu-utils mmdebstrap busybox-static gcc libc6-dev \
	e2fsprogs openssh-client debian-archive-keyring ca-certificates xz-utils
LAB := python3 -m tests.lab
LAB_NEEDS := lab-needs
HOST ?= alice
LAYER ?= booted

.PHONY: lab lab-needs lab-image lab-up lab-down lab-shell lab-run lab-reset lab-status lab-logs

lab-needs:
	@[ "$$(id -u)" = 0 ] || { echo "the lab needs root: it makes a Debian file system" >&2; exit 1; }
	@mk/packages $(LAB_PACKAGES)

lab-image: lab-needs
	@$(LAB) image

lab-up: lab-needs
	@$(LAB) up

lab-down:
	@$(LAB) down

lab-status:
	@$(LAB) status

lab-reset: lab-needs
	@$(LAB) reset $(LAYER)

lab-shell:
	@$(LAB) shell $(HOST)

lab-run:
	@$(LAB) run $(HOST) '$(subst ','\'',$(CMD))'

lab-logs:
	@$(LAB) logs build/lab-logs

# make lab                            every test of the lab
# make lab TEST=tests/lab/test_lab.py one file
# make lab TEST='-k cable -x'         what pytest takes
lab: lab-needs venv
	@$(PY) -m pytest -v $(if $(filter tests/%,$(TEST)),,tests/lab) $(TEST)
