"""A VM that was replicated by hand for block-drbd: taken over, moved, given back."""

from __future__ import annotations

import pytest

from tests.bench import byhand

from . import faults, product
from .guest import Guest
from .host import Host
from .lab import Lab
from .stories import Story

VM, CONFIG, RESOURCES = byhand.VM, byhand.CONFIG, byhand.RESOURCES
FILE = f"/etc/drbd.d/{VM}.res"


def _sums(lab: Lab) -> list[str]:
    """Data and metadata volumes' names and the data's bytes, on both hosts."""
    return [
        product.checksum(host, f"/dev/vg0/{VM}-{vdev}", 0, size)
        for host in lab.hosts
        for vdev, (_, _, size) in byhand.DISKS.items()
    ]


def _generations(host: Host) -> list[str]:
    """DRBD's own word on whether the data changed or was to be synced."""
    return [host.out(f"drbdsetup show-gi {minor} | tail -n 1") for minor in byhand.MINORS]


def _write_something(lab: Lab) -> Guest:
    """The VM has run as its administrator ran it, and is off."""
    guest = Guest(lab.alice, VM)
    lab.alice.run(f"xl create {CONFIG}", timeout=300)
    guest.wait_writing(disks=2)
    return guest


def _stop(lab: Lab, host: Host) -> None:
    host.run(f"xl destroy {VM}")
    product.wait_gone(host, VM)
    for resource in RESOURCES:
        product.wait_until(
            lambda name=resource: host.out(f"drbdadm role {name}") == "Secondary/Secondary",
            60,
            f"{resource} to be let go",
        )
    product.wait_in_sync(host, *RESOURCES)


def _assert_by_hand(lab: Lab) -> None:
    for host in lab.hosts:
        assert host.read(FILE) == byhand.resource_file()
        assert host.read(CONFIG) == byhand.config()
        for resource in RESOURCES:
            assert product.net(host, resource) == product.Net("C", True), f"{resource} on {host.name}"
        assert "xenhelper" not in host.out("lvs -o lv_name,lv_tags vg0")
        assert host.run(
            "ls -A /var/lib/xenhelper/resources /var/lib/xenhelper/handmade", check=False
        ).out in (
            "",
            "/var/lib/xenhelper/resources:\n",
        )


@pytest.mark.layer("paired")
def test_it_is_taken_over_with_its_data_and_moves(lab: Lab) -> None:
    story, alice, bob = Story("convert"), lab.alice, lab.bob
    byhand.build(lab)
    assert f"xenhelper convert {CONFIG}" in alice.run("xenhelper doctor", check=False, timeout=180).out
    assert f"xenhelper convert {CONFIG}" in alice.run("xenhelper setup bob --yes", timeout=300).out
    _write_something(lab)
    before = product.picture(lab)
    for host, words in ((alice, "runs here"), (bob, "is Primary on alice")):
        product.refused(host, f"xenhelper convert {VM}", words, status=3)
    assert product.picture(lab) == before, "a refusal changed something"
    _stop(lab, alice)
    sums, generations = _sums(lab), [_generations(host) for host in lab.hosts]
    seen = alice.out("dmesg | wc -l")
    story.type(alice, f"xenhelper convert {VM} --dry-run")
    story.type(alice, f"xenhelper convert {VM}")
    assert _sums(lab) == sums, "the data was written to"
    assert [_generations(host) for host in lab.hosts] == generations, "DRBD's generations were changed"
    product.wait_in_sync(alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, None)
    kernel = alice.out(f"dmesg | tail -n +{int(seen) + 1} | grep -i drbd || true")
    assert "Resync" not in kernel and "Disconnect" not in kernel, kernel
    for host in lab.hosts:
        for resource in RESOURCES:
            assert "resource-only" in host.out(f"drbdsetup show {resource} | grep fencing")
    assert alice.read(FILE) == bob.read(FILE)
    assert "nothing was left" in bob.run(f"xenhelper convert {VM}").out
    assert product.status(alice, VM)["problems"] == []

    story.type(alice, f"xl create {CONFIG}", timeout=300)
    guest = Guest(alice, VM)
    guest.wait_writing(disks=2)
    assert all(boot.holes == 0 for boot in guest.boots()), "the guest lost what it had written"
    product.assert_steady(lab, RESOURCES, alice)
    story.type(alice, f"xl migrate {VM} bob", timeout=product.MIGRATE_TIMEOUT)
    guest.on(bob).wait_progress(120)
    product.assert_steady(lab, RESOURCES, bob)
    story.type(bob, f"xl migrate {VM} alice", timeout=product.MIGRATE_TIMEOUT)
    guest.wait_progress(120)
    product.assert_steady(lab, RESOURCES, alice)
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    product.assert_no_wrong_block(guest, alice, bob)
    story.type(alice, f"xenhelper status {VM}")
    story.end()


# one before its first change on the peer, one between the two hosts, one behind the last
KILLS = (
    ("bob", "after handmade:_keep:statefile.write_atomically"),
    ("bob", "before handmade:take:bringup.adm#2 2"),
    ("alice", "before handmade:take:statefile.write_atomically"),
    ("alice", "after handmade:take:bringup.adm#2"),
    ("alice", "before replicate:commit:client.ask"),
)


@pytest.mark.layer("paired")
def test_killed_in_the_middle_and_given_back(lab: Lab) -> None:
    alice = lab.alice
    byhand.build(lab)
    guest = _write_something(lab)
    _stop(lab, alice)
    lab.both(lambda host: host.run("systemctl stop xenhelper-reconcile.timer xenhelper-watch.service"))
    sums = _sums(lab)
    for number, (name, order) in enumerate(KILLS):
        faults.arm(lab.host(name), order)
        done = alice.run(f"xenhelper convert {VM}", check=False, timeout=300)
        assert not done.ok and not faults.disarm(lab.host(name)), f"{order} on {name}: {done}"
        if number % 2:
            # nobody types anything: the reconcilers
            for host in lab.hosts:
                host.run("xenhelper reconcile", timeout=200, check=False)
            for host in lab.hosts:
                assert host.run("ls /var/lib/xenhelper/intents").out == "", f"{order} on {name}"
        alice.run(f"xenhelper convert {VM}", timeout=300)
        product.assert_steady(lab, RESOURCES, None)
        assert _sums(lab) == sums, f"{order} on {name}: the data was written to"
        product.wait_in_sync(alice, *RESOURCES)
        alice.run(f"xenhelper forget {VM}", timeout=300)
        _assert_by_hand(lab)
        assert _sums(lab) == sums
        product.wait_in_sync(alice, *RESOURCES)
    # forget killed between the two hosts
    alice.run(f"xenhelper convert {VM}", timeout=300)
    faults.arm(alice, "before handmade:_put_back:statefile.write_atomically")
    assert not alice.run(f"xenhelper forget {VM}", check=False, timeout=300).ok
    alice.run(f"xenhelper forget {VM}", timeout=300)
    _assert_by_hand(lab)
    product.wait_in_sync(alice, *RESOURCES)
    # and it starts as it always did
    alice.run(f"xl create {CONFIG}", timeout=300)
    guest.wait_writing(disks=2)
    assert all(boot.holes == 0 for boot in guest.boots())
    _stop(lab, alice)


@pytest.mark.layer("paired")
def test_metadata_on_the_volume_itself_stays_there(lab: Lab) -> None:
    alice, volume = lab.alice, f"/dev/vg0/{VM}-xvda"
    byhand.build(lab)
    text = byhand.resource_file().replace(f"meta-disk {volume}_meta;", "meta-disk internal;")

    def inside(host: Host) -> None:
        host.run(
            f"drbdadm down {VM}-xvda; dd if=/dev/zero of={volume} bs=1M count=64 oflag=direct status=none"
        )
        host.write(FILE, text)
        host.run(f"drbdadm --force create-md {VM}-xvda; drbdadm up {VM}-xvda", timeout=120)

    lab.both(inside)
    product.wait_until(lambda: "2000: cs:Connected" in alice.read("/proc/drbd"), 60, "the connection")
    alice.run("drbdsetup new-current-uuid --clear-bitmap 2000")
    product.wait_in_sync(alice, *RESOURCES)
    sums = _sums(lab)  # the metadata lies at the end of this volume
    alice.run(f"xenhelper convert {VM}", timeout=300)
    product.assert_steady(lab, RESOURCES, None)
    assert _sums(lab)[1::2] == sums[1::2], "the other disk's data was written to"
    assert "meta-disk internal;" in alice.read(FILE)
    product.refused(alice, f"xenhelper grow {VM} xvda +4M", "metadata on its own volume", status=3)
    alice.run(f"xl create {CONFIG}", timeout=300)
    guest = Guest(alice, VM)
    guest.wait_writing(disks=2)
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    # attached anew by our own file
    alice.run(f"xl destroy {VM}")
    product.wait_gone(alice, VM)
    product.wait_in_sync(alice, *RESOURCES)
    for host in lab.hosts:
        host.run(f"drbdsetup down {VM}-xvda && xenhelper resources-up")
    product.wait_in_sync(alice, *RESOURCES, timeout=60)
    alice.run(f"xl create {CONFIG}", timeout=300)
    guest.wait_progress(120)
    product.assert_no_wrong_block(guest, alice)
    assert all(boot.holes == 0 for boot in guest.boots())
