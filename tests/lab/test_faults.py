"""The fault matrix on real Xen and DRBD: a migration is struck at each of its moments.

Then power and cables come back, and nobody acts. Within 120 s (times
XENHELPER_LAB_SLOWNESS, emulation being slow) the guest runs exactly once, both hosts
are at rest, and every block that was acknowledged at protocol C is there.
"""

from __future__ import annotations

import time

import pytest

from . import faults, figures, product, settle
from .faults import VM, Phase, Trap
from .guest import Guest, since
from .lab import Lab
from .witness import Witness, missing

RESOURCES = {"xvda": f"{VM}-xvda", "xvdb": f"{VM}-xvdb"}
# What `make test` runs: the worst three.
CORE_FAULTS = ("in-add-cut-link", "pre-copy-kill", "both-primary-power-source")


# From the destination's promotion to the source's demotion: two Primaries may meet again, which
# DRBD calls a split brain, until the source's has stepped down. Nobody has to end it.
TWO_PRIMARIES = ("both-primary", "answer", "in-remove")


def _cases() -> list[object]:
    found: list[object] = []
    for phase, fault in faults.cases():
        name = f"{phase.name}-{fault}"
        marks = [pytest.mark.core] if name in CORE_FAULTS else []
        if phase.name in TWO_PRIMARIES and fault.startswith("cut"):
            marks.append(pytest.mark.expects("split-brain"))
        found.append(pytest.param(phase, fault, id=name, marks=marks))
    return found


# the destination may be Primary, and have written nothing, when the link goes
@pytest.mark.expects("split-brain-solved")
@pytest.mark.parametrize(("phase", "fault"), _cases())
def test_migration_under_fire(lab: Lab, phase: Phase, fault: str) -> None:
    minors = {name: product.minor(lab.alice, name) for name in RESOURCES.values()}
    by_disk = {disk: minors[name] for disk, name in RESOURCES.items()}
    guest = Guest(lab.alice, VM)
    faults.autostart(lab)
    boots = {host.name: guest.on(host).boots() for host in lab.hosts}
    trap = Trap(lab, phase)
    with Witness(lab, VM, by_disk) as witness:
        guest.wait_progress()
        trap.arm()
        faults.start(lab.alice)
        trap.wait(lab.alice)
        if phase.dwell:
            time.sleep(phase.dwell)  # blocks are to be acknowledged meanwhile
        faults.strike(lab, trap, fault)
        faults.outage(lab, fault)
        faults.restore(lab)
        rest = settle.wait(lab, VM, minors)
        told, certain = witness.acknowledged(), witness.synchronous()
    assert witness.wrong == []
    if not rest.wrong:
        # where it booted, it has looked at its disks before it writes
        guest.on(lab.host(rest.where[0])).wait_progress(180)
    new = [boot for host in lab.hosts for boot in since(boots[host.name], guest.on(host).boots())]
    lost = missing(told, new)
    figures.note(
        f"{phase.name}, {fault}",
        at_rest_after=round(rest.seconds, 1),
        runs_on=rest.where,
        restarted=bool(new),
        acknowledged_at_c=certain,
        lost_at_a=lost,
        for_a_person=bool(rest.wrong),
    )
    for host in lab.hosts:
        assert guest.on(host).wrong_lines() == [], host.name
    for boot in new:
        assert boot.full >= certain.get(boot.disk, 0), f"a write acknowledged at C is lost: {boot}"
        assert boot.holes == 0, boot
    struck = {"power-source": faults.SOURCE, "power-destination": faults.DESTINATION}.get(fault)
    if struck in rest.where:
        assert {boot.disk for boot in new} == set(RESOURCES), (
            "it booted there, and its disks weren't looked at"
        )
    if not fault.startswith("power"):
        assert lost == {}, "no host died, and acknowledged writes are gone"
    if rest.wrong:
        reason = faults.PERSON.get((phase.name, fault))
        said = settle.alerts(lab, VM)
        assert reason and said, _story(lab, rest, said)
        return
    now = guest.on(lab.host(rest.where[0]))
    now.wait_progress(120)
    assert all(wrong == 0 for wrong, _ in now.verify().values())


def _story(lab: Lab, rest: settle.Rest, said: list[str]) -> str:
    log = lab.alice.read(faults.LOG)
    return (
        f"not at rest after {rest.seconds:.0f} s:\n  " + "\n  ".join(rest.wrong)
        + f"\nalerts:\n  {chr(10).join(said) or 'none'}\nxl migrate said:\n{log}"
    )  # fmt: skip
