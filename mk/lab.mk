# The lab: two real Xen hosts in QEMU. See tests/lab/README.md.
#   RELEASE=bookworm   Debian 12 instead of 13
LAB_PACKAGES := qemu-system-x86 qemu-utils mmdebstrap busybox-static gcc libc6-dev \
	e2fsprogs openssh-client debian-archive-keyring ca-certificates xz-utils tmux
LAB := python3 -m tests.lab
LAB_NEEDS := lab-needs
HOST ?= alice
LAYER ?= booted

.PHONY: lab lab-full lab-summary lab-report lab-needs lab-image lab-up lab-down lab-shell lab-run lab-reset lab-status lab-logs

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

# make lab-full                       every case, one by one, for hours; what has passed on this
#                                     build of the product is skipped, so it goes on where it was
# make lab-full ONLY='fire and drained'   what pytest's -k takes, or a file or case
# make lab-full FAILED=1              only what failed at its last run
# make lab-full RELEASE=trixie,bookworm
lab-full: lab-needs venv deb
	@$(PY) -m tests.lab.full run $(if $(ONLY),--only '$(subst ','\'',$(ONLY))') \
		$(if $(RELEASE),--release $(RELEASE)) $(if $(FAILED),--failed)

lab-summary: venv
	@$(PY) -m tests.lab.full summary

# the tables of docs/reliability.md and docs/figures.md, from what lab-full has kept
lab-report: venv
	@$(PY) -m tests.lab.full report

# make bench            everything that docs/performance.md compares, side by side
# make bench ROW=add    only what gives this row
# make bench ROW=profile  the course of one migration of each kind, and what it costs both hosts
.PHONY: bench
bench: lab-needs venv deb
	@$(PY) -m tests.bench $(ROW)
