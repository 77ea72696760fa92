"""A VM of libvirt: adopted, started, refused elsewhere, migrated, stopped, given back; and a
migration whose link is lost while both hosts are Primary."""

from __future__ import annotations

import re
import time

import pytest

from . import figures, measure, product, virt
from .guest import Guest
from .lab import Lab
from .stories import Story
from .wait import wait_until

VM = "virt1"
RESOURCES = [f"{VM}-xvda", f"{VM}-xvdb"]
VOLUMES = {"xvda": (f"/dev/vg0/{VM}-root", 64), "xvdb": (f"/dev/vg0/{VM}-swap", 32)}  # MiB
MIGRATE = virt.virsh(f"migrate --live {VM} xen+ssh://{{}}/system")
TIMEOUT = 900.0


def _define(lab: Lab) -> dict[str, str]:
    """Its volumes, with known bytes at their ends, and its definition on alice; their checksums."""
    sums = {}
    for path, size in VOLUMES.values():
        lab.alice.run(f"lvcreate -q -y -Wy -L {size}M -n {path.rsplit('/', 1)[1]} vg0")
        lab.alice.run(f"dd if=/dev/urandom of={path} bs=1M count={size} oflag=direct status=none")
        for start in (0, size - 4):
            sums[f"{path} {start}"] = product.checksum(lab.alice, path, start, 4)
    lab.alice.write("/root/virt1.xml", virt.xml(VM, {vdev: path for vdev, (path, _) in VOLUMES.items()}))
    lab.alice.run(virt.virsh("define /root/virt1.xml"))
    return sums


def _sources(text: str) -> list[str]:
    return re.findall(r"<source dev='([^']*)'", text)


def _adopt(lab: Lab, story: Story) -> dict[str, str]:
    sums = _define(lab)
    story.type(lab.alice, f"xenhelper replicate --libvirt {VM} --dry-run", timeout=300)
    assert _sources(lab.alice.out(virt.virsh(f"dumpxml {VM}"))) == [path for path, _ in VOLUMES.values()]
    story.type(lab.alice, f"xenhelper replicate --libvirt {VM}", timeout=TIMEOUT)
    product.wait_in_sync(lab.alice, *RESOURCES, timeout=600)
    return sums


def _settled(lab: Lab, where: str, seconds: float = 400) -> None:
    """Closed, and Primary just where it runs; what nobody acts on is the reconciler's."""

    def steady() -> bool:
        try:
            product.assert_steady(lab, RESOURCES, lab.host(where) if where else None)
        except AssertionError:
            return False
        return True

    wait_until(steady, seconds, f"{VM} to be settled on {where or 'no host'}", every=3)


def _move(lab: Lab, source: str, target: str) -> None:
    here, there = lab.host(source), lab.host(target)
    guest = Guest(here, VM)
    guest.wait_progress(120)
    before = guest.status()
    begun = time.monotonic()
    minors = [product.minor(here, name) for name in RESOURCES]
    with measure.Sampler(there, minors) as sampler:
        here.run(MIGRATE.format(target), timeout=TIMEOUT)
        seconds = time.monotonic() - begun
        moved = guest.on(there)
        moved.wait_line(r"^XH xvdb seq=", 180)
        moved.wait_progress(180)
    _settled(lab, target)
    assert product.runs_on(lab, VM) == [target]
    assert all(report.acked > before[disk].acked for disk, report in moved.status().items())
    assert all(report.werr == report.rerr == report.wrong == 0 for report in moved.status().values())
    product.assert_no_wrong_block(guest, *lab.hosts)
    assert all(wrong == 0 for wrong, _ in moved.verify().values())
    for minor, result in sampler.results().items():
        assert result.both_primary > 0
        both, down = result.both_primary, result.downtime or 0
        figures.note(
            f"libvirt's migration, {source} to {target}, minor {minor}",
            seconds=round(seconds, 1), both_primary=round(both, 1), downtime=round(down, 1),
        )  # fmt: skip


@pytest.mark.layer("libvirt")
def test_a_domain_is_adopted_runs_moves_and_is_given_back(lab: Lab) -> None:
    story = Story("libvirt")
    sums = _adopt(lab, story)
    devices = [f"/dev/drbd{product.minor(lab.alice, name)}" for name in RESOURCES]
    texts = [host.out(virt.virsh(f"dumpxml --inactive {VM}")) for host in lab.hosts]
    assert [_sources(text) for text in texts] == [devices, devices]
    assert len({re.search("<uuid>.*</uuid>", text).group() for text in texts}) == 1  # type: ignore[union-attr]
    for host in lab.hosts:
        for key, wanted in sums.items():
            path, start = key.split()
            assert product.checksum(host, path, int(start), 4) == wanted, f"{key} on {host.name}"
    _settled(lab, "")

    story.type(lab.alice, virt.virsh(f"start {VM}"), timeout=TIMEOUT)
    guest = Guest(lab.alice, VM)
    guest.wait_writing(disks=2, timeout=400)
    _settled(lab, "alice")
    assert product.vm(lab.alice, VM)["runs_on"] == "alice"
    story.type(lab.alice, f"xenhelper status {VM}")
    story.type(lab.bob, virt.virsh(f"start {VM}"), timeout=TIMEOUT, check=False)

    product.refused(lab.bob, virt.virsh(f"start {VM}"), "in use on alice", timeout=TIMEOUT)
    # a volume beneath DRBD, under another name
    lab.bob.write("/root/other.xml", virt.xml("other", {"xvda": VOLUMES["xvda"][0]}))
    lab.bob.run(virt.virsh("define /root/other.xml"))
    product.refused(lab.bob, virt.virsh("start other"), "beneath DRBD", timeout=TIMEOUT)
    lab.bob.run(virt.virsh("undefine other"))
    product.refused(lab.alice, f"xl migrate {VM} bob", "runs by libvirt")
    guest.wait_progress(120)
    assert product.runs_on(lab, VM) == ["alice"]

    _move(lab, "alice", "bob")
    _move(lab, "bob", "alice")

    guest.send("reboot")
    wait_until(lambda: len(guest.boots()) >= 4, 600, f"{VM} to boot again", every=2)
    guest.wait_progress(300)
    _settled(lab, "alice")
    guest.send("poweroff")
    product.wait_gone(lab.alice, VM, 300)
    _settled(lab, "")

    story.note("migrated to bob and back, shut down")
    story.type(lab.alice, f"xenhelper forget {VM}", timeout=TIMEOUT)
    for host in lab.hosts:
        assert _sources(host.out(virt.virsh(f"dumpxml --inactive {VM}"))) == [p for p, _ in VOLUMES.values()]
        assert host.read("/proc/drbd").count(" cs:") == 0
    for key, wanted in sums.items():
        path, start = key.split()
        assert product.checksum(lab.alice, path, int(start), 4) == wanted, key
    story.end()


@pytest.mark.layer("libvirt")
@pytest.mark.expects("split-brain-solved", "split-brain")
def test_a_link_that_is_lost_in_the_pre_copy(lab: Lab) -> None:
    _adopt(lab, Story("libvirt"))
    lab.alice.run(virt.virsh(f"start {VM}"), timeout=TIMEOUT)
    guest = Guest(lab.alice, VM)
    guest.wait_writing(disks=2, timeout=400)
    minor = product.minor(lab.alice, RESOURCES[0])
    move = lab.alice.start(MIGRATE.format("bob"))
    try:
        wait_until(
            lambda: product.roles(lab.bob).get(minor) == "Primary/Primary", 600, "both hosts to be Primary"
        )
        lab.cut_link()
        move.communicate(timeout=TIMEOUT)
    finally:
        move.kill()
    assert move.returncode != 0
    lab.heal_link()
    _settled(lab, "alice", 600)
    assert product.runs_on(lab, VM) == ["alice"]
    product.wait_in_sync(lab.alice, *RESOURCES, timeout=600)
    # after the suspension libvirt 11 resumes nobody: the reconciler does
    guest.wait_progress(400)
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    product.assert_no_wrong_block(guest, *lab.hosts)
