"""``xenhelper grow``: larger on both hosts while the guest writes, and after every kill."""

from __future__ import annotations

import re

import pytest

from xenhelper import crashpoints

from . import faults, product, scenario
from .guest import Guest
from .host import Host
from .lab import Lab
from .stories import Story
from .wait import wait_until

RESOURCES = ["web1-xvda", "web1-xvdb"]
MIB = 1 << 20


def _volume(host: Host, name: str) -> int:
    return int(host.out(f"lvs --noheadings --units b --nosuffix -o lv_size vg0/{name}"))


def _kernel(host: Host, resource: str) -> int:
    found = re.search(r" size:(\d+) ", host.run(f"drbdsetup events2 --now --statistics {resource}").out)
    assert found, resource
    return int(found.group(1)) * 1024


def _told(host: Host, domain: str = "web1", devid: int = 51712) -> int:
    """The size that blkback tells the guest."""
    return 512 * int(
        host.out(f"xenstore-read /local/domain/0/backend/vbd/$(xl domid {domain})/{devid}/sectors")
    )


def _intents(host: Host) -> list[str]:
    return host.run("ls /var/lib/xenhelper/intents").out.split()


def _everywhere(lab: Lab, resource: str, volume: str, size: int) -> None:
    """Volumes, kernels and records of both hosts have this size."""
    for host in lab.hosts:
        assert _volume(host, volume) == size, host.name
        assert _kernel(host, resource) == size, host.name
        record = host.read(f"/var/lib/xenhelper/resources/{resource}")
        assert f"size_bytes={size}\n" in record, record


def _same_bits(lab: Lab, volume: str, start: int, count: int) -> None:
    sums = {product.checksum(host, f"/dev/vg0/{volume}", start, count) for host in lab.hosts}
    assert len(sums) == 1, f"{volume} from {start} MiB on differs"


def test_a_running_guest_gets_it_and_nothing_else_changes(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    before = product.picture(lab)
    assert "would" in lab.alice.run("xenhelper grow web1 xvda +36M --dry-run").out
    product.refused(lab.alice, "xenhelper grow web1 xvda 32M", "isn't made smaller", status=3)
    product.refused(lab.alice, "xenhelper grow web1 xvda +100G", "free", "needed", status=3)
    product.refused(lab.alice, "xenhelper grow web1 xvda 10", "is no size", status=2)
    product.refused(lab.alice, "xenhelper grow web1 xvdz +4M", "it has xvda, xvdb", status=1)
    product.refused(lab.alice, "xenhelper grow web2 xvda +4M", "isn't replicated", status=1)
    assert product.picture(lab) == before, "a dry run or a refusal changed something"

    # LVM hands out what an earlier volume left: the peer's is to become the same
    for host, letter in ((lab.alice, "A"), (lab.bob, "B")):
        host.run("lvcreate -q -y -L 100M -n junk vg0")
        host.run(f"head -c 100M /dev/zero | tr '\\0' {letter} > /dev/vg0/junk; sync; lvremove -y vg0/junk")
    lab.alice.run("xl sysrq web1 8")
    seen = len(guest.console())
    story = Story("grow")
    story.type(lab.alice, "xenhelper grow web1 xvda +36M --dry-run")
    story.type(lab.alice, "xenhelper grow web1 xvda +36M")
    _everywhere(lab, "web1-xvda", "web1-root", 100 * MIB)
    assert _told(lab.alice) == 100 * MIB
    guest.wait_line(r"xvda: detected capacity change from 131072 to 204800", 30, seen)
    story.note("the guest's kernel says: xvda: detected capacity change from 131072 to 204800")
    assert "has that size" in story.type(lab.alice, "xenhelper grow web1 xvda 100M").out
    product.wait_in_sync(lab.alice, *RESOURCES)
    story.type(lab.alice, "xenhelper status web1")
    story.end()
    # from the host that doesn't run it
    lab.bob.run("xenhelper grow web1 xvdb 64M")
    _everywhere(lab, "web1-xvdb", "web1-swap", 64 * MIB)
    guest.wait_line(r"xvdb: detected capacity change from 65536 to 131072", 30, seen)
    product.wait_in_sync(lab.alice, *RESOURCES)
    _same_bits(lab, "web1-root", 64, 36)
    _same_bits(lab, "web1-swap", 32, 32)
    guest.wait_progress()
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    product.assert_no_wrong_block(guest, lab.alice)
    product.assert_steady(lab, RESOURCES, lab.alice)

    # and with nobody running
    lab.alice.run("xl destroy web1")
    product.wait_gone(lab.alice, "web1")
    lab.alice.run("xenhelper grow web1 xvda +28M")
    _everywhere(lab, "web1-xvda", "web1-root", 128 * MIB)
    product.wait_in_sync(lab.alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, None)
    lab.bob.run("xl create /etc/xen/web1.cfg", timeout=120)
    moved = guest.on(lab.bob)
    moved.wait_writing(disks=2)
    assert _told(lab.bob) == 128 * MIB
    product.assert_no_wrong_block(guest, lab.alice, lab.bob)


@pytest.mark.layer("paired")
def test_during_the_first_sync_and_with_small_extents(lab: Lab) -> None:
    """Small extents: the metadata volume has its floor of 1 MiB."""
    for host in lab.hosts:
        host.run("vgchange -q -s 128k vg0")
    lab.alice.run("lvcreate -q -y -Wy -L 2816M -n web1-root vg0 && lvcreate -q -y -L 32M -n web1-swap vg0")
    lab.alice.write("/etc/xen/web1.cfg", scenario.WEB1)
    lab.alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    guest = Guest(lab.alice, "web1")
    assert _volume(lab.alice, "web1-root_xhmeta") == MIB
    assert "SyncSource" in lab.alice.run("drbdsetup events2 --now web1-xvda").out
    said = lab.alice.run("xenhelper grow web1 xvda +256M").out
    assert "resync" in said and _volume(lab.bob, "web1-root") == 3072 * MIB
    assert _kernel(lab.alice, "web1-xvda") == 2816 * MIB
    product.refused(lab.alice, "xenhelper grow web1 xvda +4M", "isn't grown to", status=3)
    assert "once its resync is through" in lab.alice.run("xenhelper status web1").out
    product.wait_in_sync(lab.alice, *RESOURCES, timeout=400)
    # nobody acts: the reconciler does
    wait_until(lambda: _kernel(lab.bob, "web1-xvda") == 3072 * MIB, 200, "the reconciler to grow it", every=2)
    for host in lab.hosts:
        wait_until(lambda end=host: not _intents(end), 60, "the intent to be closed")
        assert _volume(host, "web1-root_xhmeta") == MIB, host.name
    _everywhere(lab, "web1-xvda", "web1-root", 3072 * MIB)
    # who typed it doesn't get it twice
    assert "was interrupted, and finished" in lab.alice.run("xenhelper grow web1 xvda +256M").out
    product.wait_in_sync(lab.alice, *RESOURCES, timeout=400)
    _same_bits(lab, "web1-root", 2800, 272)
    guest.wait_writing(disks=2)
    # what is on disk holds: attached anew on both hosts
    lab.alice.run("xl destroy web1")
    product.wait_gone(lab.alice, "web1")
    product.assert_steady(lab, RESOURCES, None)
    for host in lab.hosts:
        host.run("drbdsetup down web1-xvda && xenhelper resources-up")
    product.wait_in_sync(lab.alice, *RESOURCES, timeout=60)
    assert _kernel(lab.alice, "web1-xvda") == 3072 * MIB
    for host in lab.hosts:
        assert "oos:0" in host.read("/proc/drbd")
        assert "attach" not in host.run("dmesg | grep -i 'drbd.*refusing'", check=False).out
    product.assert_no_wrong_block(guest, lab.alice)


# steps of a growth of a running VM typed where it runs; what only others take is left out
_NOT_SO = (
    "grow:recover:",
    "grow:_step_back:",
    "grow:_resize:verbs.primary",
    "grow:_go:intents.remove",
    "grow:serve_volumes:intents.remove",
)
_SIDES = {"serve_volumes": "bob", "serve_finish": "bob"}
_BOTH = ("_extend", "_finish")


def _kills() -> list[tuple[str, str]]:
    """(host, order) of every step that changes something."""
    found = []
    for point in crashpoints.points("grow"):
        if point.name.startswith(_NOT_SO):
            continue
        function = point.function
        for host in ("bob", "alice") if function in _BOTH else (_SIDES.get(function, "alice"),):
            found.append((host, point.name))
    return found


PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_each_step_the_same_command_finishes(lab: Lab, part: int) -> None:
    guest = Guest(lab.alice, "web1")
    lab.both(lambda host: host.run("systemctl stop xenhelper-reconcile.timer xenhelper-watch.service"))
    size = 64
    for host, step in _kills()[part::PARTS]:
        faults.arm(lab.host(host), f"before {step}")
        size += 4
        done = lab.alice.run("xenhelper grow web1 xvda +4M", check=False)
        if faults.disarm(lab.host(host)):
            assert done.ok, f"{step} on {host} isn't come to, and {done}"
            print("not a step of it:", host, step)
        else:
            assert not done.ok, f"{step} on {host} was killed and it says it is done"
            lab.alice.run("xenhelper grow web1 xvda +4M", timeout=200)
        _everywhere(lab, "web1-xvda", "web1-root", size * MIB)
        for end in lab.hosts:
            assert _intents(end) == [], f"{step} on {host}"
        product.wait_in_sync(lab.alice, *RESOURCES)
    guest.wait_progress()
    assert _told(lab.alice) == size * MIB
    product.assert_no_wrong_block(guest, lab.alice)
    product.assert_steady(lab, RESOURCES, lab.alice)
    _same_bits(lab, "web1-root", 64, size - 64)


def test_during_a_resync_it_waits_and_goes_on_by_itself(lab: Lab) -> None:
    guest = Guest(lab.alice, "web1")
    lab.shape_link(4, 1)
    minor = product.minor(lab.alice, "web1-xvda")
    lab.alice.run(f"drbdsetup invalidate-remote {minor}")
    wait_until(
        lambda: "SyncSource" in lab.alice.run("drbdsetup events2 --now web1-xvda").out,
        30,
        "a resync",
        every=0.3,
    )
    said = lab.alice.run("xenhelper grow web1 xvda +8M").out
    assert "once its resync is through" in said, said
    assert [_volume(host, "web1-root") for host in lab.hosts] == [72 * MIB] * 2
    assert _kernel(lab.alice, "web1-xvda") == 64 * MIB
    product.refused(lab.alice, "xenhelper grow web1 xvda +4M", "isn't grown to", status=3)
    assert "once its resync is through" in lab.alice.run("xenhelper status web1").out
    lab.unshape()
    product.wait_in_sync(lab.alice, *RESOURCES)
    # nobody acts: the reconciler does
    wait_until(lambda: not any(map(_intents, lab.hosts)), 200, "the reconciler to grow it", every=2)
    _everywhere(lab, "web1-xvda", "web1-root", 72 * MIB)
    # who typed it doesn't get it twice
    assert "was interrupted, and finished" in lab.alice.run("xenhelper grow web1 xvda +8M").out
    product.wait_in_sync(lab.alice, *RESOURCES)
    assert _told(lab.alice) == 72 * MIB
    _same_bits(lab, "web1-root", 64, 8)
    guest.wait_progress()
    product.assert_no_wrong_block(guest, lab.alice)
    product.assert_steady(lab, RESOURCES, lab.alice)
