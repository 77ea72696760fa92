"""A VM comes from a server without xenhelper: its bytes, whatever is killed on the way.

bob plays the old server, with volumes and an image of its own and a config outside of
/etc/xen: to it as alice's peer none of them is known.
"""

from __future__ import annotations

import pytest

from . import faults, product, scenario
from .guest import Guest
from .host import Host
from .lab import Lab
from .settle import SLOWNESS
from .stories import Story

VM, CONFIG, RESOURCES = "old1", "/etc/xen/old1.cfg", ["old1-xvda", "old1-xvdb"]
THERE = "/root/old1.cfg"
DISK, IMAGE, MIB = "/dev/vg1/old1-root", "/srv/old1-data.img", 32
# what it becomes on alice
NEW_DISK, NEW_IMAGE = "/dev/vg0/old1-root", "/dev/vg0/old1-xvdb"
TYPED = f"xenhelper import root@bob:{THERE} --vm {VM} --volume-group vg0 --bridge oldbr0=xenbr0"
STATE = f"/var/lib/xenhelper/import/{VM}"
TIMEOUT = 240 * SLOWNESS


def config(*disks: str, bridge: str = "oldbr0") -> str:
    """As web1's, with these disks."""
    lines = scenario.WEB1.replace('"web1"', f'"{VM}"').replace("xenbr0", bridge).splitlines()
    kept = [line for line in lines if not line.startswith("disk")]
    return "\n".join([*kept, f"disk = [{', '.join(repr(disk) for disk in disks)}]", ""])


def _prepare(lab: Lab) -> tuple[dict[str, int], list[str]]:
    """The VM has run on bob and is off. What it had acknowledged by disk, and its disks' sums."""
    bob = lab.bob
    bob.run(f"lvcreate -q -y -Wy -L {MIB}M -n old1-root vg1")
    bob.run(f"dd if=/dev/urandom of={DISK} bs=1M count=4 oflag=direct status=none")
    # data, a hole, data
    bob.run(
        f"mkdir -p /srv; truncate -s {MIB}M {IMAGE}; "
        f"dd if=/dev/urandom of={IMAGE} bs=1M count=4 conv=notrunc status=none; "
        f"dd if=/dev/urandom of={IMAGE} bs=1M count=3 seek={MIB - 3} conv=notrunc status=none; sync"
    )
    bob.write(THERE, config(f"phy:{DISK},xvda,w", f"file:{IMAGE},xvdb,w"))
    bob.write("/root/run.cfg", config(f"phy:{DISK},xvda,w", bridge="xenbr0"))
    # what a fresh volume of alice's may hold
    lab.alice.run(
        "lvcreate -q -y -Wy -L 128M -n junk vg0; "
        "dd if=/dev/urandom of=/dev/vg0/junk bs=1M count=128 oflag=direct status=none; "
        "lvremove -q -y vg0/junk",
        timeout=120,
    )
    guest = Guest(bob, VM)
    bob.run(f"{product.real_xl(bob)} create /root/run.cfg", timeout=300)
    guest.wait_writing(disks=1)
    guest.wait_progress()
    product.refused(lab.alice, TYPED, f"{VM} runs on bob (as {VM})", status=3)
    acked = {disk: report.acked for disk, report in guest.status().items()}
    bob.run(f"{product.real_xl(bob)} destroy {VM}")
    product.wait_gone(bob, VM)
    bob.run("sync")
    return acked, _sums(bob)


def _sums(bob: Host) -> list[str]:
    return [product.checksum(bob, DISK, 0, MIB).split()[0], bob.out(f"sha256sum {IMAGE}").split()[0]]


def _copies(host: Host) -> list[str]:
    return [product.checksum(host, path, 0, MIB).split()[0] for path in (NEW_DISK, NEW_IMAGE)]


# each kills the run before it; what it had done by then stays
KILLS = (
    "after importing.story:_carry_out:volumes.create",
    "after importing.sums:Sums.note:statefile.write_at",
    "before importing.sums:Sums.note:statefile.write_at 2",
    "before importing.story:_carry_out:intents.write#2",
    "after importing.story:_carry_out:intents.write#2",
    "after vmfile:store:statefile.write_atomically < importing.story:_place",
    "after provision:build:adm.create_md",
    "before importing.story:_clear:intents.remove",
)


@pytest.mark.layer("paired")
def test_killed_at_each_step_it_comes_whole_and_runs(lab: Lab) -> None:
    alice, bob = lab.hosts
    acked, sums = _prepare(lab)
    lab.both(lambda host: host.run("systemctl stop xenhelper-reconcile.timer xenhelper-watch.service"))
    # somebody has the disk open; nothing is changed by a refusal or a dry run
    before = product.picture(lab)
    bob.run(f"nohup sleep 600 <{DISK} >/dev/null 2>&1 & echo $! >/root/sleep.pid")
    product.refused(alice, TYPED, f"bob:{DISK} is in use there", status=3)
    bob.run("kill $(cat /root/sleep.pid)")
    dry = alice.run(f"{TYPED} --dry-run")
    assert "would: bridge oldbr0 becomes xenbr0" in dry.out and "warning" not in dry.out, dry
    assert product.picture(lab) == before, "a refusal or a dry run changed something"

    for number, order in enumerate(KILLS):
        faults.arm(alice, order)
        done = alice.run(TYPED, check=False, timeout=TIMEOUT)
        assert not done.ok and not faults.disarm(alice), f"{order}: {done}"
        if number == 1:
            # the kernel says whether anybody writes to that disk
            mark = alice.read(f"{STATE}/xvda.mark").split()
            assert len(mark) >= 5 and mark[0].startswith("mark="), mark
            # and somebody does: the VM ran once more
            bob.run(f"dd if=/dev/urandom of={DISK} bs=4k count=1 seek=3 oflag=direct status=none")
            sums = _sums(bob)
            product.refused(alice, f"xl create {_by_hand(alice)}", "isn't whole yet")
        if number in (3, 4):
            assert alice.run(f"test -e {CONFIG}", check=False).status == 1, order
            assert _copies(alice) == sums, order
    ended = alice.run(TYPED, timeout=TIMEOUT)
    assert f"{VM} is imported" in ended.out
    assert _sums(bob) == sums, "something was written on the old server"
    assert _copies(alice) == sums
    assert bob.read(THERE) == config(f"phy:{DISK},xvda,w", f"file:{IMAGE},xvdb,w")
    product.wait_in_sync(alice, *RESOURCES)
    assert _copies(bob) == sums, "the replica"
    product.assert_steady(lab, RESOURCES, None)
    assert "import" not in alice.out("lvs --noheadings -o lv_tags vg0")
    assert alice.run(f"ls {STATE}", check=False).status != 0
    alice.run(f"xl create {CONFIG}", timeout=300)
    guest = Guest(alice, VM)
    guest.wait_writing(disks=2)
    for report in guest.boots():
        assert report.holes == 0 and report.full >= acked.get(report.disk, 0), report
    product.assert_steady(lab, RESOURCES, alice)
    product.assert_no_wrong_block(guest, alice)


def _by_hand(alice: Host) -> str:
    """A config that somebody writes before the import is through."""
    alice.write("/root/early.cfg", config(f"phy:{NEW_DISK},xvda,w", bridge="xenbr0"))
    return "/root/early.cfg"


@pytest.mark.layer("paired")
def test_a_cut_line_giving_up_and_a_whole_run(lab: Lab) -> None:
    alice, bob = lab.hosts
    acked, sums = _prepare(lab)
    # slow enough that the cable is pulled in the middle of it
    alice.run(
        f"nohup sh -c '{TYPED} --limit 400K >/root/import.log 2>&1; echo $? >/root/import.status' "
        ">/dev/null 2>&1 </dev/null &"
    )
    product.wait_until(
        lambda: alice.run(f"test -s {STATE}/xvda.sums", check=False).ok, TIMEOUT, "a first chunk", every=1
    )
    product.refused(alice, TYPED, f"{VM}: another change is under way (import", status=3)
    lab.cut_second_path()
    product.wait_until(lambda: alice.read("/root/import.status").strip(), TIMEOUT, "the copy to end", every=2)
    lab.heal()
    said = alice.read("/root/import.log")
    assert alice.read("/root/import.status").strip() == "1", said
    assert "xenhelper: " in said.strip().splitlines()[-1], said
    assert f"xenhelper import --undo {VM}" in alice.run("xenhelper status", timeout=120).out
    # given up: nothing is left here
    alice.run(f"xenhelper import --undo {VM}", timeout=120)
    assert "old1" not in alice.out("lvs --noheadings -o lv_name")
    assert alice.run("ls /var/lib/xenhelper/intents").out == ""
    # the old sshd may still have to see that we are gone
    product.wait_until(
        lambda: not bob.run("pgrep -x dd", check=False).ok,
        1200,
        "bob's dd to end",
        every=5,
    )
    # once more, whole, and at full speed
    story = Story("import")
    dry = story.type(alice, "xenhelper import root@bob:/root/old1.cfg --vm old1 --volume-group vg0 --dry-run")
    assert "no bridge oldbr0" in dry.out and f"to {NEW_DISK}, replicated with bob" in dry.out
    ended = story.type(alice, TYPED, timeout=TIMEOUT)
    for digest in sums:
        assert digest in ended.out, ended
    assert _sums(bob) == sums and _copies(alice) == sums
    product.wait_in_sync(alice, *RESOURCES)
    assert _copies(bob) == sums
    guest = Guest(alice, VM)
    story.type(alice, f"xl create {CONFIG}", timeout=300)
    guest.wait_writing(disks=2)
    story.type(alice, f"xenhelper status {VM}")
    assert all(report.holes == 0 and report.full >= acked.get(report.disk, 0) for report in guest.boots())
    product.assert_no_wrong_block(guest, alice)
    story.end()
