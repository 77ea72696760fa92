"""The lab itself: what its verbs promise, shown on hosts without the product."""

from __future__ import annotations

import pytest

from . import measure
from .guest import Guest
from .lab import Lab
from .wait import wait_until

pytestmark = pytest.mark.layer("booted")

PROVER = """\
name = "{name}"
type = "pvh"
kernel = "/var/lib/xenlab/vmlinuz"
ramdisk = "/var/lib/xenlab/guest.img"
cmdline = "console=hvc0 quiet mitigations=off"
memory = 128
disk = ['phy:/dev/vg0/{name},xvda,w']
"""


def reaches(lab: Lab, address: str) -> bool:
    return lab.alice.run(f"ping -q -c 2 -i 0.2 -W 2 {address}", check=False).ok


def cables(lab: Lab, *, link: bool, path: bool) -> None:
    """Wait until exactly these carry packets; the kernel takes a second to see a carrier."""
    wait_until(
        lambda: (reaches(lab, "10.99.0.2"), reaches(lab, "10.98.0.2")) == (link, path),
        30,
        f"link={link} path={path}",
    )


def test_cables(lab: Lab) -> None:
    cables(lab, link=True, path=True)
    lab.cut_link()
    cables(lab, link=False, path=True)
    lab.heal_link()
    lab.cut_second_path()
    cables(lab, link=True, path=False)
    lab.heal()
    lab.shape_link(4, 50)
    cables(lab, link=True, path=True)
    lab.silence_link()
    cables(lab, link=False, path=True)
    lab.unshape()
    cables(lab, link=True, path=True)


def test_hosts_reach_each_other_as_root(lab: Lab) -> None:
    assert lab.alice.out("ssh bob uname -n; ssh bob.lab uname -n") == "bob\nbob"
    assert lab.bob.out("ssh root@alice uname -n") == "alice"


def test_power_and_snapshot(lab: Lab) -> None:
    lab.bob.run("echo kept > /root/flushed; sync; mkdir /root/before")
    lab.bob.power_off()
    assert not reaches(lab, "10.99.0.2")
    lab.bob.power_on()
    assert lab.bob.read("/root/flushed") == "kept\n"
    cables(lab, link=True, path=True)
    lab.alice.power_off()
    lab.reset("booted")
    assert lab.bob.read("/root/flushed") == ""
    assert reaches(lab, "10.99.0.2")


@pytest.mark.expects("wrong-block")
def test_guest_proves_a_volume(lab: Lab) -> None:
    lab.alice.run("lvcreate -q -y -Wy -L 64M -n plain vg0")
    lab.alice.write("/etc/xen/plain.cfg", PROVER.format(name="plain"))
    lab.alice.run("xl create -q /etc/xen/plain.cfg", timeout=300)
    guest = Guest(lab.alice, "plain")
    guest.wait_writing(disks=1)
    wrong, checked = guest.verify()["xvda"]
    assert wrong == 0 and checked > 0
    before = guest.status()["xvda"].acked
    guest.send("reboot")
    guest.wait_line(r"^XH xvda boot max=[1-9]", timeout=180)
    first, second = guest.boots()
    assert first.max == 0
    assert second.full >= before and second.holes == 0
    # a block changed behind the guest's back is found
    guest.send("pause")
    guest.wait_line("XH ok pause")
    lab.alice.run("dd if=/dev/zero of=/dev/vg0/plain bs=4k seek=2048 count=4096 oflag=direct")
    assert guest.verify()["xvda"][0] > 0
    assert guest.wrong_lines()


def test_samples_are_parsed() -> None:
    line = "up={} minor=1 cs=Connected ro={} ds=UpToDate/UpToDate proto={} ns=0 nr={} dw={} dr=0"
    text = "\n".join(
        line.format(*sample)
        for sample in (
            ("1.0", "Secondary/Primary", "A", 100, 100),
            ("2.0", "Secondary/Primary", "C", 140, 100),
            ("3.0", "Secondary/Primary", "C", 140, 140),
            ("9.0", "Primary/Primary", "C", 140, 140),
            ("12.0", "Primary/Primary", "C", 140, 144),
            ("13.0", "Primary/Secondary", "A", 140, 150),
        )
    )
    found = measure.summarise(measure.parse(text))
    assert found.downtime == 10.0
    assert found.both_primary == 4.0
    assert found.protocol_c == 11.0
