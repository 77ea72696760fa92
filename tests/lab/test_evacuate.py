"""``xenhelper evacuate``, back again, and guests that migrate when their host shuts down."""

from __future__ import annotations

import pytest

from . import product
from .guest import Guest
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]
DB1 = """\
name = "db1"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
memory = 96
disk = ['phy:/dev/vg0/db1,xvda,w']
"""
HOG = """\
name = "hog"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
memory = {}
"""


def _left_out(lab: Lab) -> None:
    """db1 runs on a volume that isn't replicated."""
    lab.alice.run("lvcreate -q -y -L 48M -n db1 vg0")
    lab.alice.write("/etc/xen/db1.cfg", DB1)
    lab.alice.run("sed -i '/^\\[replicate\\]/a exclude_vms = db1' /etc/xenhelper/xenhelper.conf")
    lab.alice.run("xl create /etc/xen/db1.cfg", timeout=120)


def test_off_the_host_and_back(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    _left_out(lab)
    before = product.picture(lab)
    dry = lab.alice.run("xenhelper evacuate --dry-run", check=False)
    assert dry.status == 1 and "xl migrate web1 bob" in dry.out and "db1 stays: none of its disks" in dry.out
    assert product.picture(lab) == before
    # memory that isn't there: told before anything moves
    free = int(lab.bob.out("xl info | awk '/^free_memory/{print $3}'"))
    lab.bob.write("/root/hog.cfg", HOG.format(free - 60))
    lab.bob.run("xl create -p /root/hog.cfg", timeout=120)
    full = product.refused(lab.alice, "xenhelper evacuate", "2 of them not moved", status=1)
    assert "web1 stays: doesn't fit" in full.out + full.err
    assert "xl migrate" not in full.out and product.runs_on(lab, "web1") == ["alice"]
    lab.bob.run("xl destroy hog")

    lab.alice.run("xl destroy db1")
    said = lab.alice.run("xenhelper evacuate", product.MIGRATE_TIMEOUT)
    assert "web1 to bob (1 of 1)" in said.out
    moved = guest.on(lab.bob)
    moved.wait_progress()
    assert product.runs_on(lab, "web1") == ["bob"]
    product.assert_steady(lab, RESOURCES, lab.bob)
    assert lab.alice.run("ls /var/lib/xenhelper/evacuated").out.split() == ["web1"]
    assert lab.alice.run("xenhelper evacuate").out == ""

    dry = lab.alice.run("xenhelper evacuate --return --dry-run")
    assert "would type on bob: xl migrate web1 alice" in dry.out
    back = lab.alice.run("xenhelper evacuate --return", product.MIGRATE_TIMEOUT)
    assert "web1 from bob" in back.out
    assert product.runs_on(lab, "web1") == ["alice"]
    guest.wait_progress()
    assert lab.alice.run("ls /var/lib/xenhelper/evacuated").out.split() == []
    assert lab.alice.run("xenhelper evacuate --return").out == ""
    product.assert_no_wrong_block(guest, lab.alice, lab.bob)
    product.assert_steady(lab, RESOURCES, lab.alice)


@pytest.mark.expects("qemu-crash")  # at the shutdown
def test_guests_migrate_when_the_host_shuts_down(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    lab.alice.run("printf '\\n[shutdown]\\nguests = migrate\\n' >> /etc/xenhelper/xenhelper.conf")
    lab.alice.run("xenhelper evacuate --at-shutdown")  # the host stays up: nothing happens
    assert product.runs_on(lab, "web1") == ["alice"]
    boots = len(guest.boots())
    lab.alice.shutdown(timeout=400)
    moved = guest.on(lab.bob)
    moved.wait_progress()
    assert len(moved.boots()) == 0 and boots > 0, "it went on living, with no new boot"
    lab.alice.power_on()
    product.wait_in_sync(lab.bob, *RESOURCES, timeout=200)
    assert product.runs_on(lab, "web1") == ["bob"]
    lab.alice.run("xenhelper evacuate --return", product.MIGRATE_TIMEOUT)
    assert product.runs_on(lab, "web1") == ["alice"]
    guest.wait_progress()
    product.assert_no_wrong_block(guest, lab.alice, lab.bob)
    product.assert_steady(lab, RESOURCES, lab.alice)
