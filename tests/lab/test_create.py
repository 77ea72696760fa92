"""An untouched config, plain ``xl create``: what issue by issue must hold on both hosts."""

from __future__ import annotations

import re

import pytest

from . import product, scenario
from .guest import Guest
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]


def _random_volumes(lab: Lab) -> dict[str, str]:
    """Random bytes on web1's volumes; checksums of what the guest never writes."""
    sums = {}
    for name, size in scenario.VOLUMES.items():
        lab.alice.run(f"dd if=/dev/urandom of=/dev/vg0/{name} bs=1M count={size} oflag=direct status=none")
        for host_part in ((0, 4), (size - 4, 4)):
            sums[f"{name} {host_part}"] = product.checksum(lab.alice, f"/dev/vg0/{name}", *host_part)
    return sums


@pytest.mark.core
@pytest.mark.layer("paired")
def test_untouched_config_is_replicated_and_runs(lab: Lab) -> None:
    scenario.write_web1(lab)
    sums = _random_volumes(lab)
    original = lab.alice.read("/etc/xen/web1.cfg")
    before = product.picture(lab)
    lab.alice.run("xl create -n /etc/xen/web1.cfg")
    lab.alice.run("xenhelper plan /etc/xen/web1.cfg")
    assert product.picture(lab) == before, "a dry run changed something"

    lab.alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    Guest(lab.alice, "web1").wait_writing(disks=2)
    product.wait_in_sync(lab.alice, *RESOURCES)

    sizes = [host.out("lvs --noheadings --units b --nosuffix -o lv_name,lv_size vg0") for host in lab.hosts]
    assert sorted(sizes[0].split("\n")) == sorted(sizes[1].split("\n"))
    assert lab.alice.read("/etc/drbd.d/web1.res") == lab.bob.read("/etc/drbd.d/web1.res") != ""
    assert lab.alice.read("/etc/xen/web1.cfg") == lab.bob.read("/etc/xen/web1.cfg") != original
    for host in lab.hosts:
        for key, wanted in sums.items():
            name, start, count = re.fullmatch(r"(\S+) \((\d+), (\d+)\)", key).groups()  # type: ignore[union-attr]
            assert product.checksum(host, f"/dev/vg0/{name}", int(start), int(count)) == wanted, host.name
        assert host.out("stat -c %a /etc/drbd.d/web1.res") == "600"
    product.assert_steady(lab, RESOURCES, lab.alice)

    found = product.vm(lab.alice, "web1")
    assert found["runs_on"] == "alice" and found["migrating_to"] is None
    for disk in found["disks"]:
        assert (disk["connection"], disk["role"], disk["peer_role"]) == ("Connected", "Primary", "Secondary")
        assert (disk["disk_state"], disk["peer_disk_state"]) == ("UpToDate", "UpToDate")
        assert (disk["protocol"], disk["two_primaries"], disk["sync_percent"]) == ("A", False, 100.0)
    # bob asks alice, and on a busy host her answer may miss the bound of one call
    product.wait_until(
        lambda: product.vm(lab.bob, "web1")["runs_on"] == "alice", 60, "bob to say where web1 runs"
    )


@pytest.mark.core
def test_second_create_allocates_nothing_and_cold_move_is_whole(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    res = lab.alice.read("/etc/drbd.d/web1.res")
    volumes = lab.alice.out("lvs --noheadings -o lv_name vg0")
    lab.alice.run("xl destroy web1")
    lab.alice.run("xl create /etc/xen/web1.cfg", timeout=120)
    assert lab.alice.read("/etc/drbd.d/web1.res") == res
    assert lab.alice.out("lvs --noheadings -o lv_name vg0") == volumes
    guest.wait_writing(disks=2)
    # the move: data still on its way over a slow link
    lab.shape_link(20, 10)
    guest.wait_progress()
    acked = {disk: report.acked for disk, report in guest.status().items()}
    lab.alice.run("xl destroy web1")
    lab.bob.run("xl create /etc/xen/web1.cfg", timeout=120)
    moved = guest.on(lab.bob)
    moved.wait_line(r"^XH xvdb boot ", 180)
    moved.wait_writing(disks=2)
    for report in moved.boots():
        assert report.holes == 0, report
        assert report.full >= acked[report.disk], "an acknowledged write is missing"
    product.assert_no_wrong_block(guest, lab.alice, lab.bob)
    product.assert_steady(lab, RESOURCES, lab.bob)


@pytest.mark.core
def test_create_on_the_other_host_is_refused(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    product.refused(lab.bob, "xl create /etc/xen/web1.cfg", "web1", "alice")
    # past the shim the block script refuses
    xl = product.real_xl(lab.bob)
    result = lab.bob.run(f"{xl} create /etc/xen/web1.cfg", check=False)
    assert result.status != 0 and "in use on alice" in result.err + result.out
    guest.wait_progress()
    product.assert_no_wrong_block(guest, lab.alice)
    product.assert_steady(lab, RESOURCES, lab.alice)
    assert product.runs_on(lab, "web1") == ["alice"]
