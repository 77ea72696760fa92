"""What else may be at a disk or have failed beneath it: each has its answer, and nobody acts."""

from __future__ import annotations

import re
import time

import pytest

from . import figures, product, scenario, settle
from .guest import Guest
from .host import Host
from .lab import Lab
from .told import clock, kernel_said
from .witness import Witness, missing

RESOURCES = ["web1-xvda", "web1-xvdb"]
PROMISED = settle.PROMISED * settle.SLOWNESS
TIMERS = "xenhelper-reconcile.timer xenhelper-watch.service"


def _hold(host: Host, resource: str, seconds: int) -> None:
    """A process of dom0 has the device open."""
    host.run(f"nohup sleep {seconds} </dev/drbd_{resource} >/dev/null 2>&1 &")


def _role(host: Host, resource: str) -> str:
    return product.roles(host)[product.minor(host, resource)].split("/")[0]


def _words(host: Host, begun: float) -> str:
    return host.run(f"journalctl -q -t xenhelper --no-pager -o cat --since=@{begun:.0f}").out


def test_a_device_held_open_is_waited_for_and_its_holder_named(lab: Lab) -> None:
    alice, bob = lab.hosts
    # for a moment: tried again
    begun = clock(alice)
    _hold(alice, "web1-xvdb", 8)
    alice.run("xl destroy web1", timeout=120)
    product.wait_gone(alice, "web1")
    product.wait_until(lambda: _role(alice, "web1-xvdb") == "Secondary", 20, "the demotion")
    assert "held open" not in _words(alice, begun)
    alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    # for good: named, and Primary until it is let go
    begun = clock(alice)
    _hold(alice, "web1-xvdb", 3000)
    alice.run("xl destroy web1", timeout=120, check=False)
    product.wait_until(
        lambda: (
            ": web1-xvdb: /dev/drbd1001 can't be demoted: held open by sleep (pid " in _words(alice, begun)
        ),
        120,
        "the holder to be named",
        every=2,
    )
    assert _role(alice, "web1-xvda") == "Secondary" and _role(alice, "web1-xvdb") == "Primary"
    product.refused(bob, "xl create /etc/xen/web1.cfg", "web1: web1-xvdb is in use on alice")
    said = [problem["what"] for problem in product.status(alice, "web1")["problems"]]
    assert any("web1-xvdb is in use on alice by sleep (pid " in what for what in said), said
    alice.run("pkill -x sleep")
    began = time.monotonic()
    product.wait_until(lambda: _role(alice, "web1-xvdb") == "Secondary", PROMISED, "the demotion", every=2)
    figures.note("held open, then let go", demoted_after=round(time.monotonic() - began, 1))
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    guest = Guest(bob, "web1")
    guest.wait_writing(disks=2)
    assert all(boot.holes == 0 for boot in guest.boots())
    product.assert_steady(lab, RESOURCES, bob)


def test_a_disk_mounted_in_dom0_is_nobody_elses(lab: Lab) -> None:
    """The DRBD device itself is mounted, by hand, while its VM is off."""
    alice, bob = lab.hosts
    alice.run("lvcreate -q -y -Wy -L 16M -n files vg0 && mkfs.ext2 -q /dev/vg0/files")
    text = scenario.WEB1.replace('"web1"', '"files"')
    text = re.sub(r"(?m)^disk = .*", "disk = ['phy:/dev/vg0/files,xvda,w']", text)
    alice.write("/etc/xen/files.cfg", text)
    alice.run("xenhelper replicate /etc/xen/files.cfg", timeout=300)
    product.wait_in_sync(alice, "files-xvda")
    alice.run("drbdadm primary files-xvda && mount /dev/drbd_files-xvda /mnt && echo mine >/mnt/kept && sync")
    product.refused(alice, "xl create /etc/xen/files.cfg", "files-xvda", "mount /mnt", timeout=200)
    product.refused(bob, "xl create /etc/xen/files.cfg", "files-xvda is in use on alice")
    assert alice.read("/mnt/kept") == "mine\n"
    assert product.net(alice, "files-xvda") == product.Net("A", False)
    alice.run("umount /mnt")
    product.wait_until(lambda: _role(alice, "files-xvda") == "Secondary", PROMISED, "the demotion", every=2)
    bob.run("drbdadm primary files-xvda && mount -r /dev/drbd_files-xvda /mnt")
    assert bob.read("/mnt/kept") == "mine\n"
    bob.run("umount /mnt")
    product.wait_until(lambda: _role(bob, "files-xvda") == "Secondary", PROMISED, "the demotion", every=2)
    alice.run("xl create /etc/xen/files.cfg", timeout=300)
    Guest(alice, "files").wait_writing(disks=1)


def test_another_domain_of_the_same_name(lab: Lab) -> None:
    """bob has a web1 that isn't this one: nothing is taken for it, and it is left alone."""
    alice, bob = lab.hosts
    bob.write(
        "/root/web1.cfg", 'name = "web1"\ntype = "pvh"\nkernel = "/var/lib/xenlab/vmlinuz"\nmemory = 96\n'
    )
    bob.run(f"{product.real_xl(bob)} create -p /root/web1.cfg", timeout=120)
    other = bob.out("xl list -v web1 | tail -n 1")
    product.refused(alice, "xl migrate web1 bob", "the name free")
    product.assert_steady(lab, RESOURCES, alice)
    Guest(alice, "web1").wait_progress(120)
    alice.run("xl destroy web1", timeout=120)
    product.wait_gone(alice, "web1")
    for host in lab.hosts:
        host.run("xenhelper reconcile", timeout=120, check=False)
    assert bob.out("xl list -v web1 | tail -n 1").split()[:3] == other.split()[:3], "it is left alone"
    alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    guest = Guest(alice, "web1")
    guest.wait_progress(180)
    product.assert_steady(lab, RESOURCES, alice)
    product.assert_no_wrong_block(guest, alice)


def test_standalone_without_a_split_brain_connects_again(lab: Lab) -> None:
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    for host in (bob, alice):  # either side, a person's slip
        host.run("drbdadm disconnect web1-xvda")
        began = time.monotonic()
        product.wait_in_sync(alice, *RESOURCES, timeout=PROMISED)
        figures.note(f"StandAlone on {host.name}", connected_after=round(time.monotonic() - began, 1))
    # settings that don't fit: DRBD refuses to connect, and one side gives up
    for host in lab.hosts:
        host.run(f"systemctl stop {TIMERS}")
    bob.run("drbdadm disconnect web1-xvda")
    ends = product.ends(alice, "web1-xvda")
    alice.run(f"drbdsetup net-options {ends} --protocol=C --allow-two-primaries=yes")
    bob.run("drbdadm connect web1-xvda")
    product.wait_until(
        lambda: any("StandAlone" in host.read("/proc/drbd") for host in lab.hosts), 60, "a side to give up"
    )
    guest.wait_progress(120)
    began = time.monotonic()
    for host in lab.hosts:
        host.run(f"systemctl start {TIMERS}")
    product.wait_in_sync(alice, *RESOURCES, timeout=PROMISED)
    rest = settle.wait(lab, "web1", {name: product.minor(alice, name) for name in RESOURCES})
    assert rest.wrong == [] and rest.where == ["alice"], rest
    figures.note("settings that didn't fit", at_rest_after=round(time.monotonic() - began, 1))
    product.assert_no_wrong_block(guest, alice)


def _fail(host: Host, volume: str) -> None:
    """Every access to the volume fails, until ``_mend``."""
    name = f"vg0-{volume.replace('-', '--')}"
    host.run(
        f"dmsetup table {name} >/root/table && dmsetup suspend --noflush {name} && "
        f'dmsetup reload {name} --table "0 $(blockdev --getsz /dev/vg0/{volume}) error" && '
        f"dmsetup resume {name}"
    )


def _mend(host: Host, volume: str) -> None:
    name = f"vg0-{volume.replace('-', '--')}"
    host.run(f"dmsetup suspend --noflush {name}; dmsetup reload {name} /root/table && dmsetup resume {name}")


@pytest.mark.expects("io-error")
def test_a_primary_whose_disk_failed_is_synchronous_until_it_has_one(lab: Lab) -> None:
    """What it acknowledges without a disk of its own is on the other host's: its death loses none."""
    alice, bob = lab.hosts
    guest = Guest(alice, "web1")
    minors = {name: product.minor(alice, name) for name in RESOURCES}

    def without_disk() -> float:
        """Seconds from the failure to protocol C on both hosts."""
        begun = clock(alice)
        _fail(alice, "web1-root")
        sync = product.Net("C", False)
        product.wait_until(
            lambda: all(product.net(host, "web1-xvda") == sync for host in lab.hosts), 60, "protocol C"
        )
        took = clock(alice) - kernel_said(alice, r"disk\( UpToDate -> Failed ", begun)
        assert product.net(alice, "web1-xvdb") == product.Net("A", False), "the other disk is well"
        guest.wait_progress(120)
        return took

    took = without_disk()
    _mend(alice, "web1-root")
    alice.run("drbdadm attach web1-xvda")
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["alice"], rest
    by_disk = {name.rpartition("-")[2]: minor for name, minor in minors.items()}
    with Witness(lab, "web1", by_disk) as witness:
        again = without_disk()
        time.sleep(5)  # so that blocks are acknowledged at C
        alice.power_off()
        told, synchronous = witness.acknowledged(), witness.synchronous()
    assert synchronous["xvda"] > 0
    product.wait_until(lambda: "cs:Connected" not in bob.read("/proc/drbd"), 120, "bob to notice")
    bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    moved = guest.on(bob)
    moved.wait_writing(disks=2)
    lost = missing(told, moved.boots())
    figures.note("no disk at the Primary", seconds_to_c=[round(s, 1) for s in (took, again)], lost=lost)
    assert "xvda" not in lost, f"acknowledged without a disk: {told}, lost {lost}"
    assert all(boot.holes == 0 for boot in moved.boots())
    alice.power_on()
    rest = settle.wait(lab, "web1", minors)
    assert rest.wrong == [] and rest.where == ["bob"], rest
    moved.wait_progress(120)
    assert all(wrong == 0 for wrong, _ in moved.verify().values())
    product.assert_no_wrong_block(moved, alice, bob)
