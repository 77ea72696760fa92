"""The operations page, story by story: each command as printed there, and what must come of it."""

from __future__ import annotations

import pytest

from . import product, scenario
from .guest import Guest
from .lab import Lab
from .stories import Story

RESOURCES = ["web1-xvda", "web1-xvdb"]


def _lost(lab: Lab) -> None:
    product.wait_until(
        lambda: all("cs:Connected" not in host.read("/proc/drbd") for host in lab.hosts), 120, "the loss"
    )


def test_the_link_is_lost_and_comes_back(lab: Lab) -> None:
    story, guest = Story("link-lost"), Guest(lab.alice, "web1")
    story.type(lab.alice, "xenhelper status web1")
    lab.cut_link()
    story.note("the replication cable is pulled")
    _lost(lab)
    story.type(lab.alice, "xenhelper status web1")
    assert story.type(lab.alice, "xenhelper status --check >/dev/null; echo $?").out.strip() in ("4", "5")
    guest.wait_progress()  # the guest goes on
    lab.heal()
    story.note("the cable is back; nobody types anything")
    product.wait_in_sync(lab.alice, *RESOURCES)
    story.type(lab.alice, "xenhelper status web1")
    product.assert_steady(lab, RESOURCES, lab.alice)
    story.end()


def test_a_disk_of_the_other_host_is_replaced(lab: Lab) -> None:
    """bob's volumes are lost (new disks in its array); alice runs on, bob gets new copies."""
    story, guest, bob = Story("disk-replaced"), Guest(lab.alice, "web1"), lab.bob
    for resource in RESOURCES:
        story.type(bob, f"drbdsetup detach {product.minor(bob, resource)} --force")
    story.type(lab.alice, "xenhelper status web1")
    guest.wait_progress()
    story.note("the array of bob is repaired; its volumes web1-root and web1-swap are gone")
    bob.run("lvremove -q -y vg0")
    assert bob.out("lvs --noheadings vg0") == ""
    story.type(bob, "xenhelper replicate web1 --from-peer --dry-run")
    story.type(bob, "xenhelper replicate web1 --from-peer", timeout=300)
    product.wait_in_sync(lab.alice, *RESOURCES)
    story.type(bob, "xenhelper status web1")
    guest.wait_progress()
    # and the new copies are good: the VM moves there
    story.type(lab.alice, "xl migrate web1 bob", timeout=product.MIGRATE_TIMEOUT)
    moved = guest.on(bob)
    moved.wait_progress(120)
    product.assert_no_wrong_block(guest, lab.alice, bob)
    story.end()


@pytest.mark.expects("qemu-crash")
def test_a_host_is_taken_down_for_work(lab: Lab) -> None:
    story, guest = Story("maintenance"), Guest(lab.alice, "web1")
    story.type(lab.alice, "xenhelper evacuate", timeout=product.MIGRATE_TIMEOUT)
    guest.on(lab.bob).wait_progress(120)
    story.type(lab.alice, "xenhelper status web1")
    lab.alice.shutdown()
    story.note("alice is switched off, worked on, and switched on")
    lab.alice.power_on()
    product.wait_in_sync(lab.bob, *RESOURCES)
    assert product.runs_on(lab, "web1") == ["bob"]
    story.type(lab.alice, "xenhelper evacuate --return", timeout=product.MIGRATE_TIMEOUT)
    guest.wait_progress(120)
    story.type(lab.alice, "xenhelper status web1")
    assert product.runs_on(lab, "web1") == ["alice"]
    product.assert_no_wrong_block(guest, lab.alice, lab.bob)
    story.end()


@pytest.mark.layer("paired")
def test_a_vm_with_data_is_adopted_and_given_back(lab: Lab) -> None:
    story, alice = Story("adopt"), lab.alice
    scenario.write_web1(lab)
    for name in scenario.VOLUMES:
        # nothing but random bytes, so that any that are lost or moved show
        alice.run(f"dd if=/dev/urandom of=/dev/vg0/{name} bs=1M oflag=direct status=none", check=False)
    story.note("web1 has been here for long; it is shut down")
    # past the page cache, which on bob has what udev read before DRBD wrote beneath it
    sums = "dd if=/dev/vg0/web1-root bs=1M iflag=direct status=none | sha256sum"
    before = story.type(alice, sums).out
    story.type(alice, "xenhelper plan /etc/xen/web1.cfg")
    story.type(alice, "xenhelper replicate /etc/xen/web1.cfg", timeout=300)
    product.wait_in_sync(alice, *RESOURCES)
    story.note("a minute later")
    story.type(alice, "xenhelper status web1")
    for host in lab.hosts:
        assert story.type(host, sums).out == before, host.name
    product.assert_steady(lab, RESOURCES, None)
    guest = Guest(alice, "web1")
    story.type(alice, "xl create /etc/xen/web1.cfg", timeout=300)
    guest.wait_writing(disks=2)
    story.end()

    story = Story("forget")
    refused = story.type(alice, "xenhelper forget web1", check=False)
    assert refused.status == 3 and "runs on alice" in refused.out
    story.type(alice, "xl shutdown -w web1", timeout=200)
    product.wait_gone(alice, "web1")
    written = alice.out(sums)
    would = story.type(alice, "xenhelper forget web1 --dry-run").out.replace("would ", "")
    assert story.type(alice, "xenhelper forget web1", timeout=200).out == would
    story.type(alice, "xenhelper status")
    for host in lab.hosts:
        story.type(host, "lvs --noheadings -o lv_name,lv_size,lv_tags vg0")
        assert host.out(sums) == written, host.name
        assert host.read("/etc/xen/web1.cfg") == scenario.WEB1, host.name
        assert host.read("/proc/drbd").count(" cs:") == 0, host.name
    product.assert_no_wrong_block(guest, alice)
    story.end()


def test_the_package_goes_and_leaves_a_plain_vm(lab: Lab) -> None:
    story, alice, bob = Story("purge"), lab.alice, lab.bob
    purge = "DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y xenhelper"
    said = story.type(alice, purge, timeout=600, check=False)
    assert said.status != 0 and "web1" in said.out, "it went from beneath a running VM"
    story.type(alice, "xl shutdown -w web1", timeout=200)
    product.wait_gone(alice, "web1")
    for host in lab.hosts:
        story.type(host, purge, timeout=600)
        left = host.out(
            "ls -d /etc/xenhelper /var/lib/xenhelper /run/xenhelper /usr/lib/xenhelper /usr/local/sbin/xl "
            "/etc/drbd.d/web1.res /etc/xen/scripts/block-xenhelper /etc/systemd/system/*/xenhelper* "
            "/usr/lib/python3/dist-packages/xenhelper 2>/dev/null; true"
        )
        assert left == "", f"{host.name}: {left}"
        assert "peer-serve" not in host.read("/root/.ssh/authorized_keys")
        assert "xenhelper" not in host.out("lvs -o lv_name,lv_tags vg0; cat /etc/xen/*.cfg")
        assert "web1-root" in host.out("lvs --noheadings -o lv_name vg0")
    # the VM is a plain one again, with all its data
    guest = Guest(alice, "web1")
    story.type(alice, "xl create /etc/xen/web1.cfg", timeout=300)
    guest.wait_writing(disks=2)
    assert all(boot.holes == 0 for boot in guest.boots())
    assert alice.out("xenstore-read backend/vbd/$(xl domid web1)/51712/params") == "/dev/vg0/web1-root"
    product.assert_no_wrong_block(guest, alice)
    assert bob.out("cat /proc/drbd | grep -c cs: || true") == "0"
    story.end()


@pytest.mark.expects("split-brain")
def test_a_split_brain_is_ended(lab: Lab) -> None:
    alice, bob = lab.hosts
    lab.cut_link()
    lab.cut_second_path()
    _lost(lab)
    bob.run("xenhelper takeover web1 --peer-is-dead", timeout=120)
    bob.run("xl create /etc/xen/web1.cfg", timeout=300)
    Guest(bob, "web1").wait_writing(disks=2)
    lab.heal()
    product.wait_until(
        lambda: any("split" in p["what"].lower() for p in product.status(alice, "web1")["problems"]),
        360,
        "the split brain to be named",
        every=5,
    )
    story = Story("split-brain")
    story.note("alice couldn't be reached and was taken for dead; web1 was started on bob, too")
    story.type(alice, "xenhelper status web1")
    story.type(alice, "xenhelper recover web1 --discard bob --dry-run", check=False)
    story.type(bob, "xl shutdown -w web1", timeout=200)
    product.wait_gone(bob, "web1")
    story.type(alice, "xenhelper recover web1 --discard bob --yes", timeout=300)
    product.wait_in_sync(alice, *RESOURCES)
    story.type(alice, "xenhelper status web1")
    story.end()
