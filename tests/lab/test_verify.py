"""Both copies compared: a flipped block is found, told with its place, and mended from the good
side only; a migration isn't kept waiting by it."""

from __future__ import annotations

import re

from . import product
from .guest import Guest
from .host import Host
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]
VOLUME = "/dev/vg0/web1-root"
BLOCK = 4096
# 4 KiB blocks that the guest never writes: it keeps to 8 to 24 MiB
FLIPPED, ANOTHER = 10240, 12000


def _flip(host: Host, block: int) -> None:
    """Other bytes in one block beneath DRBD, past every cache."""
    host.run(f"dd if=/dev/urandom of={VOLUME} bs={BLOCK} seek={block} count=1 oflag=direct status=none")


def _sum(host: Host, block: int) -> str:
    return host.out(f"dd if={VOLUME} bs={BLOCK} skip={block} count=1 iflag=direct status=none | sha256sum")


def _oos(host: Host, minor: int) -> int:
    """KiB that DRBD has marked."""
    found = re.search(rf"^\s*{minor}: cs.*?oos:(\d+)", host.read("/proc/drbd"), re.M | re.S)
    assert found
    return int(found.group(1))


def test_a_flipped_block_is_found_and_mended_beneath_a_running_guest(lab: Lab) -> None:
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    right, first = _sum(alice, FLIPPED), _sum(alice, ANOTHER)
    _flip(bob, FLIPPED)
    assert _sum(bob, FLIPPED) != right

    found = alice.run("xenhelper verify web1", 180, check=False)
    assert found.status == 1, found.out + found.err
    assert f"web1-xvda: 4096 bytes differ at byte {FLIPPED * BLOCK}+4096" in found.out
    assert "web1-xvdb: both copies are the same" in found.out
    assert "--repair --good HOST" in found.out
    minor = product.minor(alice, "web1-xvda")
    assert (_oos(alice, minor), _oos(bob, minor)) == (4, 4)
    for host in lab.hosts:
        kept = host.read("/var/lib/xenhelper/verify/web1-xvda")
        assert "state=differs" in kept and f"ranges={FLIPPED * BLOCK}+4096" in kept, host.name
        assert "c-max-rate 40960k" not in host.run("drbdsetup show web1-xvda").out, "full speed again"
    checked = alice.run("xenhelper status --check web1", check=False)
    assert checked.status == 4 and "4096 bytes differ" in checked.out

    # known to differ: neither a migration, nor writing beneath a guest
    product.refused(alice, "xl migrate web1 bob", "differ", "--repair --good alice", status=3)
    product.refused(alice, "xenhelper verify web1 --repair --good bob", "web1 runs on alice", status=3)
    assert _sum(alice, FLIPPED) == right

    mended = alice.run("xenhelper verify web1 --repair --good alice", 180)
    assert "both copies are alice's now" in mended.out
    assert _sum(alice, FLIPPED) == right == _sum(bob, FLIPPED)
    assert (_oos(alice, minor), _oos(bob, minor)) == (0, 0)
    assert _sum(alice, ANOTHER) == first == _sum(bob, ANOTHER)
    again = alice.run("xenhelper verify web1", 180)
    assert again.out.count("both copies are the same") == 2
    guest.wait_progress()
    product.wait_in_sync(alice, *RESOURCES)
    product.assert_no_wrong_block(guest, alice)
    product.assert_steady(lab, RESOURCES, alice)


def test_with_the_vm_off_it_is_compared_and_not_mended(lab: Lab) -> None:
    alice, bob = lab.hosts
    alice.run("xl destroy web1")
    product.wait_gone(alice, "web1")
    minor = product.minor(alice, "web1-xvda")
    product.wait_until(
        lambda: product.roles(alice)[minor] == "Secondary/Secondary", 60, "nobody to be Primary"
    )
    right = _sum(bob, FLIPPED)
    _flip(alice, FLIPPED)
    assert bob.run("xenhelper verify web1", 180, check=False).status == 1
    product.refused(bob, "xenhelper verify web1 --repair --good bob", "xl create", status=3)
    assert _sum(alice, FLIPPED) != right == _sum(bob, FLIPPED)
    # where the good blocks are it runs, and is mended
    bob.run("xl create /etc/xen/web1.cfg", timeout=120)
    bob.run("xenhelper verify web1 --repair --good bob", 180)
    assert _sum(alice, FLIPPED) == right == _sum(bob, FLIPPED)
    Guest(bob, "web1").wait_writing(disks=2)
    product.assert_steady(lab, RESOURCES, bob)


def test_a_migration_stops_a_comparison_and_it_goes_on_behind_it(lab: Lab) -> None:
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    alice.run("printf '[verify]\\nrate = 1\\n' >> /etc/xenhelper/xenhelper.conf")
    process = alice.start("xenhelper verify web1")
    try:
        product.wait_until(lambda: "cs:VerifyS" in alice.read("/proc/drbd"), 60, "the comparison to begin")
        shown = alice.run("xenhelper status web1").out
        assert "is compared with bob" in shown, shown
        product.migrate(alice, "bob")
        out, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, out
    kept = bob.read("/var/lib/xenhelper/verify/web1-xvda")
    assert "state=clean" in kept and "by=alice" in kept
    product.assert_no_wrong_block(guest.on(bob), alice, bob)
    product.assert_steady(lab, RESOURCES, bob)
