"""Power, takeover and split brain: who runs what afterwards, and whose blocks are there."""

from __future__ import annotations

import os
import time

import pytest

from . import faults, figures, product, settle
from .guest import Guest, since
from .host import Host
from .lab import Lab
from .stories import Story
from .witness import Witness, missing

RESOURCES = ["web1-xvda", "web1-xvdb"]
# minutes in a real building; seconds here
LATE = float(os.environ.get("XENHELPER_LAB_LATE") or 60)
BOB1 = """\
name = "bob1"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off"
memory = 96
disk = ['phy:/dev/vg0/bob1,xvda,w']
"""


def _minors(host: Host, *resources: str) -> dict[str, int]:
    return {name: product.minor(host, name) for name in resources or RESOURCES}


def _both_alive(lab: Lab) -> None:
    """web1 on alice and bob1 on bob, both started at boot by whichever host should."""
    lab.bob.run("lvcreate -q -y -Wy -L 32M -n bob1 vg0")
    lab.bob.write("/etc/xen/bob1.cfg", BOB1)
    lab.bob.run("xl create /etc/xen/bob1.cfg", timeout=300)
    Guest(lab.bob, "bob1").wait_writing(disks=1)
    product.wait_in_sync(lab.bob, "bob1-xvda")
    for vm in ("web1", "bob1"):
        faults.autostart(lab, vm)


def _all_at_rest(lab: Lab) -> None:
    for vm, home, resources in (("web1", lab.alice, RESOURCES), ("bob1", lab.bob, ["bob1-xvda"])):
        rest = settle.wait(lab, vm, _minors(home, *resources))
        assert rest.wrong == [], f"{vm} after {rest.seconds:.0f} s: {rest.wrong}"
        assert rest.where == [home.name], f"{vm} last ran on {home.name}"
        guest = Guest(home, vm)
        guest.wait_progress(120)
        product.assert_no_wrong_block(guest, *lab.hosts)
        assert all(wrong == 0 for wrong, _ in guest.verify().values())
        figures.note(f"power cut: {vm} runs again", at_rest_after=round(rest.seconds, 1))


def _acked(guest: Guest) -> dict[str, int]:
    return {disk: report.acked for disk, report in guest.status().items()}


def test_power_cut_in_the_building(lab: Lab) -> None:
    """Both hosts lose power at once and boot at once: every VM is started once, at its host."""
    _both_alive(lab)
    story = Story("boot")
    for host in lab.hosts:
        story.type(host, "ls -l /etc/xen/auto | cut -d' ' -f 9-")
        story.type(host, "xl list")
    acked = _acked(Guest(lab.alice, "web1"))
    seen = Guest(lab.alice, "web1").boots()
    lab.alice.power_off()
    lab.bob.power_off()
    story.note("the power is cut, and comes back; nobody types anything")
    lab.both(lambda host: host.power_on())
    _all_at_rest(lab)
    for host in lab.hosts:
        story.type(host, "xl list")
        story.type(host, "xenhelper log -n 12")
    story.end()
    new = since(seen, Guest(lab.alice, "web1").boots())
    assert {boot.disk for boot in new} == {"xvda", "xvdb"}
    for boot in new:
        assert boot.full >= acked[boot.disk] and boot.holes == 0, boot


@pytest.mark.parametrize("late", ["alice", "bob"])
def test_one_host_boots_late(lab: Lab, late: str) -> None:
    """What is refused only because the other host hasn't spoken yet is started once it has."""
    _both_alive(lab)
    first, second = (lab.bob, lab.alice) if late == "alice" else (lab.alice, lab.bob)
    other = "bob1" if first is lab.alice else "web1"  # last ran on the host that is late
    lab.alice.power_off()
    lab.bob.power_off()
    first.power_on()
    end = time.monotonic() + LATE
    while time.monotonic() < end:
        assert settle.running([settle.view(first, [])], other) == [], f"{second.name} may have it"
        time.sleep(5)
    second.power_on()
    _all_at_rest(lab)


def test_takeover_and_return(lab: Lab) -> None:
    """alice dies, bob takes over, alice returns: nothing runs twice, the newest data stays."""
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    faults.autostart(lab)
    minors = _minors(alice)
    # as long as alice answers, no word of an operator counts
    product.refused(bob, "xenhelper takeover web1 --peer-is-dead", "alice", status=3)
    by_disk = {name.rpartition("-")[2]: minor for name, minor in minors.items()}
    with Witness(lab, "web1", by_disk) as witness:
        guest.wait_progress()
        alice.power_off()
        told = witness.acknowledged()
    product.wait_until(
        lambda: "cs:Connected" not in bob.read("/proc/drbd"), 120, "bob to notice that alice is gone"
    )
    product.refused(bob, "xl create /etc/xen/web1.cfg", "takeover")
    product.refused(bob, "xenhelper takeover web1", "--peer-is-dead", status=3)
    began = time.monotonic()
    bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    if Guest(bob, "web1").domid() is None:
        bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    moved = guest.on(bob)
    moved.wait_writing(disks=2)
    lost = missing(told, moved.boots())
    figures.note("takeover", seconds=round(time.monotonic() - began, 1), lost_at_a=lost)
    assert all(boot.holes == 0 for boot in moved.boots())

    alice.power_on()
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["bob"], rest
    boots = len(moved.boots())
    product.migrate(bob, "alice")
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["alice"], rest
    assert len(moved.boots()) == boots
    guest.wait_progress(120)
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    product.assert_no_wrong_block(guest, alice, bob)


@pytest.mark.expects("qemu-crash")
def test_a_clean_shutdown_cedes(lab: Lab) -> None:
    """A host that shuts down in good order leaves its VMs to the other, with no takeover."""
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    guest.send("pause")
    guest.wait_line("XH ok pause")
    acked = _acked(guest)
    alice.shutdown(timeout=400)  # xendomains shuts the guest down
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    moved = guest.on(bob)
    moved.wait_writing(disks=2)
    for boot in moved.boots():
        assert boot.full >= acked[boot.disk] and boot.holes == 0, boot
    alice.power_on()
    rest = settle.wait(lab, "web1", _minors(bob))
    assert rest.wrong == [] and rest.where == ["bob"], rest
    product.assert_no_wrong_block(guest, alice, bob)


@pytest.mark.expects("split-brain")
@pytest.mark.parametrize("discard", ["alice", "bob"])
def test_split_brain_and_recovery(lab: Lab, discard: str) -> None:
    """An operator calls a living host dead; both write; a person says whose writes go."""
    alice, bob = lab.hosts
    minors = _minors(alice)
    lab.cut_link()
    lab.cut_second_path()
    product.wait_until(
        lambda: all("cs:Connected" not in host.read("/proc/drbd") for host in lab.hosts), 120, "the cut"
    )
    bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    if Guest(bob, "web1").domid() is None:
        bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    guests = {host.name: Guest(host, "web1") for host in lab.hosts}
    guests["bob"].wait_writing(disks=2)
    for guest in guests.values():
        guest.wait_progress()
    lab.heal()

    def seen(host: Host) -> bool:
        said = product.status(host, "web1")["problems"]
        return any("split" in problem["what"].lower() for problem in said)

    bound = settle.PROMISED * settle.SLOWNESS
    for host in lab.hosts:
        product.wait_until(
            lambda host=host: seen(host), bound, f"{host.name} to name the split brain", every=5
        )
    for host in lab.hosts:
        assert product.roles(host)[minors[RESOURCES[0]]].startswith("Primary/"), "nothing is taken away"
    good, bad = (bob, alice) if discard == "alice" else (alice, bob)
    command = f"xenhelper recover web1 --discard {discard} --yes"
    product.refused(good, command, discard, status=3)  # in use there
    bad.run("xl destroy web1")
    acked = _acked(guests[good.name])
    bob.run(command, timeout=300)  # its own side, or the other host's
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == [good.name], rest
    now = guests[good.name]
    now.wait_progress(120)
    assert all(report.acked >= acked[disk] for disk, report in now.status().items())
    assert all(wrong == 0 for wrong, _ in now.verify().values())
    assert now.wrong_lines() == []
    # and the copy that was discarded is the same as the other: it starts from it
    good.run("xl destroy web1")
    bad.run("xl create /etc/xen/web1.cfg", timeout=300)
    other = guests[bad.name]
    other.wait_line(r"^XH xvdb boot ", 180, after=0)
    other.wait_progress(180)
    last = {boot.disk: boot for boot in other.boots()}
    assert all(boot.holes == 0 and boot.full >= acked[boot.disk] for boot in last.values())
    for host in lab.hosts:
        said = product.status(host, "web1")["problems"]
        assert not any("split" in problem["what"].lower() for problem in said), said
