"""How long things take, for docs/figures.md: create, migrate, downtime, windows."""

from __future__ import annotations

import time

import pytest

from . import figures, measure, product, scenario
from .guest import Guest
from .host import Host
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]


@pytest.mark.layer("paired")
def test_create(lab: Lab) -> None:
    scenario.write_web1(lab)
    guest = Guest(lab.alice, "web1")
    began = time.monotonic()
    lab.alice.run("xl create /etc/xen/web1.cfg", timeout=400)
    returned = time.monotonic() - began
    guest.wait_writing(disks=2)
    writing = time.monotonic() - began
    product.wait_in_sync(lab.alice, *RESOURCES)
    synced = time.monotonic() - began
    figures.note(
        "first create, 96 MiB on two disks",
        xl_returned=round(returned, 1),
        guest_writes=round(writing, 1),
        in_sync=round(synced, 1),
    )
    lab.alice.run("xl destroy web1")
    product.wait_gone(lab.alice, "web1")
    for what, xl in (("second create", "xl"), ("the same past the shim", product.real_xl(lab.alice))):
        began = time.monotonic()
        lab.alice.run(f"{xl} create /etc/xen/web1.cfg", timeout=200)
        figures.note(what, xl_returned=round(time.monotonic() - began, 1))
        lab.alice.run("xl destroy web1")
        product.wait_gone(lab.alice, "web1")


@pytest.mark.parametrize("rate", [0, 20], ids=["full-speed", "20-mbit"])
def test_migrate_there_and_back(lab: Lab, rate: int) -> None:
    if rate:
        lab.shape_link(rate, 10)
    for source, target in (lab.hosts, lab.hosts[::-1]):
        _measured(
            lab, source, target, f"{source.name} to {target.name}" + (f", {rate} Mbit/s" if rate else "")
        )


def _measured(lab: Lab, source: Host, target: Host, what: str) -> None:
    guest = Guest(source, "web1")
    guest.wait_progress()
    minors = {name: product.minor(target, name) for name in RESOURCES}
    with (
        measure.Sampler(target, list(minors.values())) as sampler,
        figures.Permission(source, RESOURCES[0]) as permission,
    ):
        began = time.monotonic()
        product.migrate(source, target.name)
        seconds = time.monotonic() - began
        guest.on(target).wait_progress(120)
    product.assert_steady(lab, RESOURCES, target)
    found = sampler.results()
    disks: dict[str, object] = {
        str(minor): {
            "downtime": seen.downtime and round(seen.downtime, 2),
            "both_primary": round(seen.both_primary, 2),
            "protocol_c": round(seen.protocol_c, 1),
        }
        for minor, seen in found.items()
    }
    figures.note(what, seconds=round(seconds, 1), two_primaries=round(permission.seconds(), 2), **disks)
