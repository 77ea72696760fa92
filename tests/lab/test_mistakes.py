"""Everyday mistakes: each has its own line, nothing is lost, and what can come back does."""

from __future__ import annotations

import pytest

from . import product, scenario
from .guest import Guest
from .lab import Lab
from .stories import Story
from .wait import wait_until

RESOURCES = ["web1-xvda", "web1-xvdb"]
CFG = "/etc/xen/web1.cfg"


def _addresses(lab: Lab, resource: str) -> set[str]:
    """Both ends' addresses, as both kernels have them."""
    found = set()
    for host in lab.hosts:
        for line in host.run(f"drbdsetup show {resource}").out.splitlines():
            words = line.replace(";", " ").split()
            if words[:1] == ["address"]:
                found.add(words[-1].partition(":")[0])
    return found


def _in_sync_age(lab: Lab) -> int:
    """Seconds between alice's note of when both were in sync and her clock."""
    noted = lab.alice.out("date -d $(sed -n s/^at=//p /var/lib/xenhelper/in_sync/web1-xvda) +%s")
    return abs(int(noted) - int(lab.alice.out("date +%s")))


def test_deleted_renamed_readdressed_while_the_guest_runs(lab: Lab) -> None:
    alice, bob = lab.alice, lab.bob
    guest = Guest(alice, "web1")

    # the resource file deleted on both hosts
    res = alice.read("/etc/drbd.d/web1.res")
    lab.both(lambda host: host.run("rm /etc/drbd.d/web1.res"))
    lab.both(lambda host: host.run("xenhelper reconcile"))
    for host in lab.hosts:
        assert host.read("/etc/drbd.d/web1.res") == res, host.name
        assert host.out("stat -c %a /etc/drbd.d/web1.res") == "600"

    # a volume renamed under it
    alice.run("lvrename vg0 web1-root old")
    said = product.status(alice, "web1")["problems"]
    assert any("there is no /dev/vg0/web1-root any more" in problem["what"] for problem in said), said
    guest.wait_progress()
    alice.run("lvrename vg0 old web1-root")
    assert not any("any more" in problem["what"] for problem in product.status(alice, "web1")["problems"])

    # another replication address
    for host, number in ((alice, 1), (bob, 2)):
        host.run(f"ip address add 10.97.0.{number}/24 dev eth0")
    setup = "xenhelper setup bob --yes --replication 10.97.0.1,10.97.0.2"
    print(alice.run(setup, timeout=300).out)
    product.wait_in_sync(alice, *RESOURCES)
    for resource in RESOURCES:
        assert _addresses(lab, resource) == {"10.97.0.1", "10.97.0.2"}
    assert alice.read("/etc/drbd.d/web1.res") == bob.read("/etc/drbd.d/web1.res") != res
    assert "nothing to change" in alice.run(setup, timeout=300).out
    guest.wait_progress()

    # the clock jumps ahead, and back
    for jump in ("+3 hours", "-3 hours"):
        alice.run(f"date -s '{jump}'")
        alice.run(f"xenhelper plan {CFG}")
        alice.run("xenhelper reconcile")
        guest.wait_progress()
    wait_until(lambda: _in_sync_age(lab) < 120, 150, "a moment in sync by the clock as it is now", every=3)

    # another host name
    alice.run("hostname alicia")
    try:
        product.refused(alice, "xl migrate web1 bob", "called alicia", "hostnamectl hostname alice", status=2)
        problems = product.status(alice, "web1")["problems"]
        assert any("called alicia" in problem["what"] for problem in problems), problems
    finally:
        alice.run("hostname alice")

    product.assert_no_wrong_block(guest, alice)
    product.assert_steady(lab, RESOURCES, alice)


def test_no_room_for_records_and_a_read_only_etc(lab: Lab) -> None:
    alice = lab.alice
    guest = Guest(alice, "web1")
    before = product.picture(lab)
    alice.run(
        "mount -t tmpfs -o size=400k,mode=700 full /mnt && cp -a /var/lib/xenhelper/. /mnt/ && "
        "mount --bind /mnt /var/lib/xenhelper && umount /mnt && ! cat /dev/zero > /var/lib/xenhelper/fill"
    )
    product.refused(alice, "xl migrate web1 bob", "can't be written: No space left", "make room")
    assert product.net(alice, "web1-xvda") == product.Net("A", False)
    guest.wait_progress()
    # a VM that is known starts all the same
    alice.run("xl destroy web1")
    product.wait_gone(alice, "web1")
    alice.run(f"xl create {CFG}", timeout=120)
    guest.wait_writing(disks=2)
    alice.run("umount /var/lib/xenhelper")

    alice.run("lvcreate -q -y -Wy -L 8M -n web2 vg0")  # LVM wants to write in /etc, too
    alice.run("mount --bind /etc /etc && mount -o remount,ro,bind /etc")
    alice.write("/root/web2.cfg", scenario.WEB1.replace("web1", "web2").split("\ndisk =")[0]
                + "\ndisk = ['phy:/dev/vg0/web2,xvda,w']\n")  # fmt: skip
    product.refused(alice, "xenhelper replicate /root/web2.cfg", "can't be written: Read-only", "remount")
    alice.run("umount /etc; lvremove -y vg0/web2; rm /root/web2.cfg")
    assert product.picture(lab) == before
    product.assert_no_wrong_block(guest, alice)
    product.assert_steady(lab, RESOURCES, alice)


def test_etc_turned_read_only_before_a_change_of_what_exists(lab: Lab) -> None:
    """On either host: grow, forget and import are refused before their first step."""
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    bob.run("lvcreate -q -y -Wy -L 8M -n old1 vg1")
    disk = "disk = ['phy:/dev/vg1/old1,xvda,w']"
    bob.write("/root/old1.cfg", scenario.WEB1.replace("web1", "old1").split("\ndisk =")[0] + f"\n{disk}\n")
    before = product.picture(lab)
    fetch = "xenhelper import root@bob:/root/old1.cfg --volume-group vg0"
    for host in lab.hosts:
        host.run("mount --bind /etc /etc && mount -o remount,ro,bind /etc")
        for command in ("xenhelper grow web1 xvda +4M", fetch):
            product.refused(alice, command, "can't be written: Read-only", "mount -o remount,rw", status=3)
        host.run("umount /etc")
        assert product.picture(lab) == before
    guest.wait_progress()
    alice.run("xl destroy web1")
    product.wait_gone(alice, "web1")
    before = product.picture(lab)
    for host in lab.hosts:
        host.run("mount --bind /etc /etc && mount -o remount,ro,bind /etc")
        product.refused(alice, "xenhelper forget web1", "can't be written: Read-only", "remount,rw")
        host.run("umount /etc")
        assert product.picture(lab) == before
    alice.run(f"xl create {CFG}", timeout=120)
    guest.wait_writing(disks=2)
    product.assert_no_wrong_block(guest, alice)
    product.assert_steady(lab, RESOURCES, alice)
    # and with /etc written to again, each goes its way
    alice.run("xenhelper grow web1 xvda +4M", timeout=200)
    product.wait_in_sync(alice, *RESOURCES)
    alice.run(f"{fetch} --bridge xenbr0=xenbr0", timeout=240)
    assert bob.run("lvs vg0/old1").ok


def test_a_config_edited_by_hand_and_a_volume_that_is_gone(lab: Lab) -> None:
    alice = lab.alice
    alice.run("xl destroy web1")
    product.wait_gone(alice, "web1")
    text = alice.read(CFG)

    # the block itself
    alice.run(f"sed -i 's/target=web1-xvdb/target=web1-xvdz/' {CFG}")
    product.refused(alice, f"xl create {CFG}", "was edited by hand")
    alice.write(CFG, text)
    # a disk added, and one taken out
    alice.run("lvcreate -q -y -Wy -L 8M -n web1-more vg0")
    disks = "disk = ['phy:/dev/vg0/web1-root,xvda,w', {}]"
    old = disks.format("'phy:/dev/vg0/web1-swap,xvdb,w'")
    assert old in text
    alice.write(CFG, text.replace(old, disks.format("'phy:/dev/vg0/web1-more,xvdc,w'")))
    said = alice.run(f"xenhelper replicate {CFG}", timeout=120)
    assert "xvdc: replicated with bob as web1-xvdc" in said.out
    assert "/dev/vg0/web1-swap" in said.err and "stays replicated as web1-xvdb" in said.err
    assert alice.read(CFG) == lab.bob.read(CFG)
    product.wait_in_sync(alice, *RESOURCES, "web1-xvdc")
    # two configs with one volume
    alice.write("/etc/xen/web2.cfg", scenario.WEB1.replace('"web1"', '"web2"'))
    product.refused(alice, "xl create /etc/xen/web2.cfg", "is beneath DRBD resource web1-xvda", status=3)

    # renamed, not active, removed
    story = Story("mistake")
    story.note("web1 is off, and somebody has renamed a volume of it")
    alice.run("drbdsetup down web1-xvda && lvrename vg0 web1-root elsewhere")
    story.type(alice, f"xl create {CFG}", check=False)
    story.type(alice, "xenhelper status web1", check=False)
    product.refused(
        alice, f"xl create {CFG}", "by its tag it is called /dev/vg0/elsewhere", "lvrename", status=3
    )
    story.type(alice, "lvrename vg0 elsewhere web1-root")
    story.type(alice, "xenhelper reconcile")
    story.type(alice, "xenhelper status web1")
    story.end()
    alice.run("drbdsetup down web1-xvda && lvchange -an vg0/web1-root")
    product.refused(alice, f"xl create {CFG}", "isn't active", "lvchange -ay vg0/web1-root", status=3)
    alice.run("lvchange -ay vg0/web1-root && xenhelper reconcile")
    product.wait_in_sync(alice, *RESOURCES)
    alice.run("drbdsetup down web1-xvdc && lvremove -y vg0/web1-more")
    product.refused(
        alice, f"xl create {CFG}", "is gone, and no volume bears its tag", "bob has the data", status=3
    )
    assert lab.bob.run("lvs vg0/web1-more").ok


def test_dom0_was_reinstalled(lab: Lab) -> None:
    alice, bob = lab.alice, lab.bob
    guest = Guest(alice, "web1")
    res, config = bob.read("/etc/drbd.d/web1.res"), bob.read(CFG)
    record = bob.read("/var/lib/xenhelper/resources/web1-xvda")
    bob.run(
        "systemctl stop xenhelper-reconcile.timer xenhelper-watch 'xenhelper-peer@*'; "
        "for r in web1-xvda web1-xvdb; do drbdsetup down $r; done; "
        f"rm -rf /etc/drbd.d/web1.res /var/lib/xenhelper/* /run/xenhelper/* /etc/xenhelper/* {CFG}"
    )
    product.refused(bob, "xenhelper reconcile --from-volumes", "xenhelper.conf is missing", status=2)
    alice.run("xenhelper setup bob --yes", timeout=300)
    dry = bob.run("xenhelper reconcile --from-volumes --dry-run")
    assert "web1: would write /etc/drbd.d/web1.res" in dry.out
    assert not bob.run("ls /etc/drbd.d/web1.res", check=False).ok
    seen = int(bob.out("dmesg | wc -l"))
    print(bob.run("xenhelper reconcile --from-volumes").out)
    product.wait_in_sync(alice, *RESOURCES, timeout=120)
    print(bob.out(f"dmesg | tail -n +{seen} | grep -i 'will sync' || true"))
    assert bob.read("/etc/drbd.d/web1.res") == res and bob.read(CFG) == config

    def lines(text: str) -> list[str]:
        return sorted(line for line in text.splitlines() if not line.startswith(("created=", "run=")))

    assert lines(bob.read("/var/lib/xenhelper/resources/web1-xvda")) == lines(record)
    assert "nothing is missing" in bob.run("xenhelper reconcile --from-volumes").out
    guest.wait_progress()
    product.assert_steady(lab, RESOURCES, alice)
    # and it is a whole half again
    alice.run("xl destroy web1")
    bob.run(f"xl create {CFG}", timeout=120)
    moved = guest.on(bob)
    moved.wait_writing(disks=2)
    assert all(report.holes == 0 for report in moved.boots())
    product.assert_no_wrong_block(guest, alice, bob)
    product.assert_steady(lab, RESOURCES, bob)


@pytest.mark.layer("paired")
def test_volumes_that_no_other_host_tells_of(lab: Lab) -> None:
    """From volumes with no other host that tells of them: refused, and nothing is written."""
    tags = ("vm=web9", "resource=web9-xvda", "minor=1000", "port=7800")
    lab.alice.run("lvcreate -q -y -L 8M -n web9 vg0 " + " ".join(f"--addtag xenhelper.{tag}" for tag in tags))
    before = product.picture(lab)
    product.refused(lab.alice, "xenhelper reconcile --from-volumes", "no other host tells of it", status=1)
    assert product.picture(lab) == before
