"""``xl migrate``: round trips, past the shim, slow links; nothing wrong, window closed."""

from __future__ import annotations

import time

import pytest

from . import figures, measure, product
from .guest import Guest
from .host import Host
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]


def _move(lab: Lab, source: Host, target: Host, xl: str = "xl", host: str = "", watch: bool = True) -> None:
    """One migration under watch: exits 0, guest writes on there, all steady after it."""
    guest = Guest(source, "web1")
    guest.wait_progress()
    minors = [product.minor(source, name) for name in RESOURCES]
    before = guest.status()
    begin = time.monotonic()
    with measure.Sampler(target, minors) as sampler:
        if watch:
            with product.PermissionWatch(source, "web1", RESOURCES[0]) as permission:
                product.migrate(source, host or target.name, xl=xl)
            assert permission.samples and permission.violations == []
        else:
            product.migrate(source, host or target.name, xl=xl)
        seconds = time.monotonic() - begin
        moved = guest.on(target)
        moved.wait_line(r"^XH xvdb seq=", 120)
        moved.wait_progress(120)
    product.assert_steady(lab, RESOURCES, target)
    assert product.runs_on(lab, "web1") == [target.name]
    assert all(report.acked > before[disk].acked for disk, report in moved.status().items())
    assert all(report.werr == report.rerr == report.wrong == 0 for report in moved.status().values())
    product.assert_no_wrong_block(guest, source, target)
    _note(f"{source.name} to {target.name} by {xl.rsplit('/', 1)[-1]}", seconds, sampler)


def _note(what: str, seconds: float, sampler: measure.Sampler) -> None:
    """Figures are kept for the docs; nothing here is a limit."""
    disks = {
        str(minor): {
            "downtime": r.downtime and round(r.downtime, 2),
            "both_primary": round(r.both_primary, 2),
            "protocol_c": round(r.protocol_c, 1),
            "longest_gap": round(r.longest_gap, 2),
        }
        for minor, r in sampler.results().items()
    }
    figures.note(what, seconds=round(seconds, 1), **disks)


@pytest.mark.core
def test_two_round_trips(lab: Lab) -> None:
    _move(lab, lab.alice, lab.bob)
    _move(lab, lab.bob, lab.alice, host="root@alice")
    _move(lab, lab.alice, lab.bob, host="bob.lab", watch=False)
    _move(lab, lab.bob, lab.alice, host="10.98.0.1", watch=False)
    assert all(wrong == 0 for wrong, _ in Guest(lab.alice, "web1").verify().values())


@pytest.mark.core
def test_past_the_shim(lab: Lab) -> None:
    _move(lab, lab.alice, lab.bob, xl=product.real_xl(lab.alice), watch=False)


@pytest.mark.core
def test_on_a_20_mbit_link(lab: Lab) -> None:
    lab.shape_link(20, 10)
    _move(lab, lab.alice, lab.bob, watch=False)


def test_round_trip_on_a_20_mbit_link(lab: Lab) -> None:
    lab.shape_link(20, 10)
    _move(lab, lab.alice, lab.bob)
    _move(lab, lab.bob, lab.alice)


def test_five_round_trips(lab: Lab) -> None:
    for _ in range(5):
        _move(lab, lab.alice, lab.bob)
        _move(lab, lab.bob, lab.alice)
    assert all(wrong == 0 for wrong, _ in Guest(lab.alice, "web1").verify().values())


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_stale_read_case(lab: Lab, attempt: int) -> None:
    """4 Mbit/s and 100 ms under full load, where a window without barrier reads old blocks."""
    guest = Guest(lab.alice, "web1")
    lab.shape_link(4, 50)
    guest.send("rate 0")
    guest.wait_progress()
    result = product.migrate(lab.alice, "bob", check=False)
    lab.unshape()
    where = product.runs_on(lab, "web1")
    assert len(where) == 1
    here = lab.host(where[0])
    now = guest.on(here)
    now.wait_progress(120)
    product.wait_in_sync(here, *RESOURCES)
    assert all(wrong == 0 for wrong, _ in now.verify().values())
    product.assert_no_wrong_block(guest, lab.alice, lab.bob)
    product.assert_steady(lab, RESOURCES, here)
    if result.status != 0:
        assert where == ["alice"], result
    written = {disk: report.acked for disk, report in now.status().items()}
    figures.note(
        f"4 Mbit/s under full load, {attempt}", exit=result.status, runs_on=where[0], acknowledged=written
    )
