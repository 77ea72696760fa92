"""A VM on thin volumes: its copy is thin where there is a pool, and what is zero stays unallocated."""

from __future__ import annotations

import pytest

from . import product, scenario
from .guest import Guest
from .host import Host
from .lab import Lab
from .wait import wait_until

RESOURCES = ["t1-xvda", "t1-xvdb"]
MIB = 1 << 20
# the image has no thin_check (thin-provisioning-tools), and nobody need watch the pools
LVM = """\
global {
    thin_check_executable = ""
    thin_repair_executable = ""
    thin_dump_executable = ""
}
activation {
    monitoring = 0
}
"""
POOL = "lvcreate -q -y --type thin-pool --chunksize 64k --poolmetadatasize 4M --poolmetadataspare n --zero y"
CONFIG = (
    scenario.WEB1.replace('"web1"', '"t1"')
    .replace("/dev/vg0/web1-root", "/dev/vg0/t1-root")
    .replace("/dev/vg0/web1-swap", "/dev/vg1/t1-log")
    .replace("xh.rate=15", "xh.rate=5 xh.region=8,4")
)
# of what the guest doesn't write to, MiB
PARTS = ((0, 8), (12, 52))
# a sync by steps of a tenth of a second cuts a chunk or two at the end of each, and those are
# filled: few on real hosts, and emulated ones sync at a few MiB/s
CUT = 45.0


def _lv(host: Host, name: str, field: str) -> str:
    return host.out(f"lvs --noheadings --units b --nosuffix -o {field} {name}")


def _percent(host: Host, name: str) -> float:
    return float(_lv(host, name, "data_percent"))


def _sparse(lab: Lab, what: str) -> None:
    """Both volumes of the first disk are thin, and bob's, or alice's, isn't filled."""
    found = {host.name: _percent(host, "vg0/t1-root") for host in lab.hosts}
    print(what, found)
    for host in lab.hosts:
        assert _lv(host, "vg0/t1-root", "pool_lv") == "pool", host.name
        assert "rs-discard-granularity" in host.run("drbdsetup show t1-xvda").out, host.name
    low, high = sorted(found.values())
    assert low > 0 and high < min(85.0, low + CUT), f"{what}: {found}"


def _same(lab: Lab, parts: tuple[tuple[int, int], ...] = PARTS) -> None:
    for start, count in parts:
        sums = {product.checksum(host, "/dev/vg0/t1-root", start, count) for host in lab.hosts}
        assert len(sums) == 1, f"t1-root from {start} MiB on differs"


@pytest.mark.layer("paired")
def test_a_thin_volume_has_a_thin_copy_all_its_life(lab: Lab) -> None:
    alice, bob = lab.hosts
    for host in lab.hosts:
        host.write("/etc/lvm/lvmlocal.conf", LVM)
        host.run("modprobe dm-thin-pool")
        host.run(f"{POOL} -L 192M -n pool vg0")
    alice.run(f"{POOL} -L 24M -n pool vg1")  # and none in bob's
    alice.run("lvcreate -q -y -V 64M --thinpool pool -n t1-root vg0")
    alice.run("lvcreate -q -y -V 32M --thinpool pool -n t1-log vg1")
    for path in ("/dev/vg0/t1-root", "/dev/vg1/t1-log"):
        alice.run(f"dd if=/dev/urandom of={path} bs=1M count=4 oflag=direct status=none")
    alice.write("/etc/xen/t1.cfg", CONFIG)

    before = product.picture(lab)
    said = alice.run("xenhelper plan /etc/xen/t1.cfg").out
    assert "its copy on bob is thin, in pool vg0/pool" in said, said
    assert "is an ordinary volume, not thin: vg1 on bob has no thin pool" in said, said
    assert product.picture(lab) == before

    done = alice.run("xl create /etc/xen/t1.cfg", timeout=400)
    assert "disk xvdb: its copy on bob is an ordinary volume, not thin" in done.err, done.err
    guest = Guest(alice, "t1")
    guest.wait_writing(disks=2, timeout=300)
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    _sparse(lab, "first sync")
    _same(lab)
    assert _lv(bob, "vg1/t1-log", "pool_lv") == "" and _lv(alice, "vg1/t1-log", "pool_lv") == "pool"
    assert "rs-discard-granularity" not in bob.run("drbdsetup show t1-xvdb").out
    for host in lab.hosts:
        assert _lv(host, "vg0/t1-root_xhmeta", "pool_lv") == "", host.name
    text = alice.read("/etc/drbd.d/t1.res")
    assert text == bob.read("/etc/drbd.d/t1.res") and text.count("rs-discard-granularity 65536;") == 1

    # there and back
    product.migrate(alice, "bob", "t1")
    moved = guest.on(bob)
    moved.wait_progress()
    product.assert_steady(lab, RESOURCES, bob)
    product.migrate(bob, "alice", "t1")
    guest.wait_progress()
    product.assert_steady(lab, RESOURCES, alice)

    # larger, online: what is new is zero, and takes no place
    had = _percent(bob, "vg0/t1-root") * 64
    print(alice.run("xenhelper grow t1 xvda +16M", timeout=200).out)
    product.wait_in_sync(alice, *RESOURCES)
    for host in lab.hosts:
        assert int(_lv(host, "vg0/t1-root", "lv_size")) == 80 * MIB, host.name
    assert _percent(bob, "vg0/t1-root") * 80 < had + 16 * 75
    _same(lab, (*PARTS, (64, 16)))

    # a pool that fills up is told
    alice.run("lvcreate -q -y -V 160M --thinpool pool -n filler vg0")
    alice.run("dd if=/dev/zero of=/dev/vg0/filler bs=1M count=150 oflag=direct status=none", timeout=300)
    full = _percent(alice, "vg0/pool")
    assert full >= 80, full
    assert "alice: thin pool vg0/pool fills up" in alice.run("xenhelper doctor", check=False).out
    alice.run("rm -f /run/xenhelper/pools; xenhelper reconcile", check=False)
    assert "thin pool vg0/pool fills up" in alice.run("xenhelper alert", check=False).out
    alice.run("lvremove -q -y vg0/filler")
    alice.run("rm -f /run/xenhelper/pools; xenhelper reconcile", check=False)
    assert "thin pool" not in alice.run("xenhelper alert", check=False).out

    # alice loses her half, and has it thin again
    alice.run("xl destroy t1")
    product.wait_gone(alice, "t1")
    bob.run("xl create /etc/xen/t1.cfg", timeout=300)
    moved.wait_writing(disks=2, timeout=300)
    alice.run(
        "for r in t1-xvda t1-xvdb; do drbdsetup down $r; done; lvremove -q -y vg0/t1-root vg0/t1-root_xhmeta"
    )
    dry = alice.run("xenhelper replicate t1 --from-peer --dry-run").out
    assert "/dev/vg0/t1-root of 80 MiB, thin, in pool vg0/pool and fill it from bob" in dry, dry
    print(alice.run("xenhelper replicate t1 --from-peer", timeout=300).out)
    product.wait_in_sync(alice, *RESOURCES, timeout=600)
    _sparse(lab, "made anew from the peer")
    _same(lab, (*PARTS, (64, 16)))
    moved.wait_progress()
    assert all(wrong == 0 for wrong, _ in moved.verify().values())
    product.assert_no_wrong_block(guest, alice, bob)
    product.assert_steady(lab, RESOURCES, bob)

    bob.run("xl destroy t1")
    product.wait_gone(bob, "t1")
    alice.run("xenhelper forget t1 --delete-peer-volumes", timeout=200)
    wait_until(lambda: "t1-" not in bob.out("lvs --noheadings -o lv_name"), 60, "bob's copies to go")
    assert _lv(alice, "vg0/t1-root", "pool_lv") == "pool"
