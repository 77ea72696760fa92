"""Whatever volumes a VM has: striped, odd in size, read-only, eight at once, and in groups that
are called otherwise on the other host."""

from __future__ import annotations

import time

import pytest

from . import figures, product, scenario
from .guest import Guest
from .host import Host
from .lab import Lab
from .stories import Story
from .wait import wait_until

NAME = "m1"
KIB = 1 << 10
MIB = 1 << 20
# alice's vg0 becomes a group over two devices, as two discs would be; its extents are small
SECTORS = 6 << 20
SPLIT = f"""\
set -e
vgremove -q vg0; pvremove -q /dev/vdb
for half in 0 1; do
    dmsetup create half$half --table "0 {SECTORS} linear /dev/vdb $((2048 + half * {SECTORS}))"
done
vgcreate -q -s 512k fast /dev/mapper/half0 /dev/mapper/half1
"""
GROUPS = {"fast": "slow", "vg1": "spare"}
ODD = 33 * 512 * KIB
# what lvcreate gets for each disk; the last one is read-only
VOLUMES = {
    "xvda": "-i 2 -I 64k -L 32M fast",
    "xvdb": "-l 33 fast",
    "xvdc": "-L 8M vg1",
    "xvdd": "-L 8M fast",
    "xvde": "-L 8M fast",
    "xvdf": "-L 8M fast",
    "xvdg": "-i 2 -I 4k -L 8M fast",
    "xvdh": "-L 8M fast",
}
READ_ONLY = "xvdh"
WRITTEN = set(VOLUMES) - {READ_ONLY}
RESOURCES = [f"{NAME}-{vdev}" for vdev in VOLUMES]


def _group(host: Host, vdev: str) -> str:
    there = VOLUMES[vdev].split()[-1]
    return there if host.name == "alice" else GROUPS[there]


def _path(host: Host, vdev: str) -> str:
    return f"/dev/{_group(host, vdev)}/{NAME}-{vdev}"


def _config() -> str:
    disks = ", ".join(
        f"'phy:/dev/{arguments.split()[-1]}/{NAME}-{vdev},{vdev},{'r' if vdev == READ_ONLY else 'w'}'"
        for vdev, arguments in VOLUMES.items()
    )
    head, _, tail = scenario.WEB1.replace('"web1"', f'"{NAME}"').partition("disk = [")
    # eight writers share an emulated host; they leave the first two MiB, and all beyond six
    head = head.replace("xh.rate=15", "xh.rate=3 xh.region=2,4")
    # blkfront keeps up to 4 MiB of pages for each disk
    head = head.replace("memory = 96", "memory = 192")
    assert "region=2,4" in head and "memory = 192" in head
    return f"{head}disk = [{disks}]{tail.partition(']')[2]}"


def _size(host: Host, vdev: str) -> int:
    return int(host.out(f"blockdev --getsize64 {_path(host, vdev)}"))


def _untouched(host: Host, vdev: str) -> str:
    """What the guest never writes to: the read-only disk, else what its writers leave."""
    if vdev == READ_ONLY:
        return product.checksum(host, _path(host, vdev), 0, 8)
    return "".join(product.checksum(host, _path(host, vdev), start, 2) for start in (0, 6))


def _all_untouched(host: Host) -> dict[str, str]:
    return {vdev: _untouched(host, vdev) for vdev in VOLUMES}


def _writes(guest: Guest, timeout: float = 200) -> None:
    """Until every disk but the read-only one has acknowledged more than when this was called."""
    before = guest.status()

    def moved() -> bool:
        now = {disk: report for disk, report in guest.status().items() if disk != READ_ONLY}
        return set(now) == WRITTEN and all(
            report.acked != (before[disk].acked if disk in before else 0) for disk, report in now.items()
        )

    wait_until(moved, timeout, f"{guest.name} to write on", every=2)


def _sound(guest: Guest, *hosts: Host) -> None:
    """Every disk that it may write to is right, and on the read-only one each write has failed."""
    seen = len(guest.console())
    guest.send("verify")
    for disk in sorted(WRITTEN):  # who fails to write the read-only one doesn't come to reading
        found = guest.wait_line(rf"^XH {disk} verify wrong=(\d+) checked=(\d+)", 300, seen)
        assert int(found[1]) == 0 and int(found[2]) > 0, found[0]
    for host in hosts:
        wrong = guest.on(host).wrong_lines()
        assert [line for line in wrong if not line.startswith(f"XH {READ_ONLY} ")] == [], host.name
        assert not any(" WRONG " in line for line in wrong), host.name
    report = guest.status().get(READ_ONLY)
    assert report is None or (report.acked, report.werr > 0) == (0, True), report


@pytest.mark.layer("booted")
def test_eight_disks_of_every_form_in_groups_of_other_names(lab: Lab) -> None:
    alice, bob = lab.hosts
    alice.run(SPLIT)
    bob.run("vgrename -q vg0 slow && vgrename -q vg1 spare")
    scenario.install(lab)
    groups = " ".join(f"--volume-group {here}={there}" for here, there in GROUPS.items())
    story = Story("volumes")
    story.type(alice, f"xenhelper setup bob {groups}", timeout=300)
    for vdev, arguments in VOLUMES.items():
        alice.run(f"lvcreate -q -y -Wy -n {NAME}-{vdev} {arguments}")
        for start in (0, 6):
            options = f"of={_path(alice, vdev)} bs=1M seek={start} count=2 oflag=direct"
            alice.run(f"dd if=/dev/urandom {options} status=none")
    before = _all_untouched(alice)
    assert _size(alice, "xvdb") == ODD
    path = f"/etc/xen/{NAME}.cfg"
    alice.write(path, _config())

    # bob's extents can't hold the odd one: said, with nothing made
    picture = product.picture(lab)
    product.refused(alice, f"xl create {path}", "m1-xvdb", "no whole number of bob's slow ext", "lvextend")
    assert product.picture(lab) == picture
    bob.run("vgchange -q -s 512k slow")

    story.type(alice, f"grep ^disk {path}")
    story.type(alice, "lvs -o lv_full_name,lv_size,segtype,stripes")
    story.type(alice, f"xl create {path}", timeout=400)
    guest = Guest(alice, NAME)
    _writes(guest, 400)
    product.wait_in_sync(alice, *RESOURCES)
    story.type(alice, f"xenhelper status {NAME}")
    story.type(bob, "lvs -o lv_full_name,lv_size,segtype,stripes")
    story.end()
    assert alice.out(f"lvs --noheadings -o segtype,stripes fast/{NAME}-xvda").split() == ["striped", "2"]
    for vdev in VOLUMES:
        assert _size(alice, vdev) == _size(bob, vdev), vdev
    assert [_all_untouched(host) for host in lab.hosts] == [before, before]
    product.assert_steady(lab, RESOURCES, alice)

    # all eight are switched, handed over and switched back, and all eight come back
    for source, target in ((alice, bob), (bob, alice)):
        began = time.monotonic()
        product.migrate(source, target.name, name=NAME)
        seconds = round(time.monotonic() - began, 1)
        figures.note(f"eight disks, {source.name} to {target.name}", xl_returned=seconds)
        guest = guest.on(target)
        guest.wait_line(r"^XH xvda seq=", 200)
        _writes(guest)
        product.assert_steady(lab, RESOURCES, target)
        _sound(guest, *lab.hosts)
    assert [_all_untouched(host) for host in lab.hosts] == [before, before]

    # the known VM: all eight are added at once
    alice.run(f"xl destroy {NAME}")
    product.wait_gone(alice, NAME)
    bob.run(f"xl create {path}", timeout=300)
    guest = guest.on(bob)
    _writes(guest, 300)
    assert all(report.holes == 0 for report in guest.boots())
    bob.run(f"xenhelper grow {NAME} xvdb +0.5M", timeout=200)
    assert {_size(host, "xvdb") for host in lab.hosts} == {ODD + 512 * KIB}
    product.wait_in_sync(bob, *RESOURCES)
    _sound(guest, *lab.hosts)
    product.assert_steady(lab, RESOURCES, bob)
