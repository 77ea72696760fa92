"""Other kinds of guest than PVH with its kernel in dom0, and what xl can do with any."""

from __future__ import annotations

import pytest

from . import faults, kinds, product
from .guest import Guest
from .host import Host
from .lab import Lab
from .stories import Story

AT_PROMOTION = "stop-before hotplug:_promote:verbs.primary"
CMDLINE = "console=hvc0 quiet mitigations=off xh.rate=15"


def _written(guest: Guest, blocks: int = 40) -> None:
    """Until it has acknowledged so many blocks more."""
    before = guest.status()["xvda"].acked
    guest.wait_writing(disks=1, timeout=300, beyond=before + blocks)


def _sound(guest: Guest, *hosts: Host) -> None:
    """All that it knows to be acknowledged reads back as it was written."""
    assert all(wrong == 0 and checked > 0 for wrong, checked in guest.verify().values())
    product.assert_no_wrong_block(guest, *hosts)


def _moves(lab: Lab, name: str) -> Guest:
    """Its migration from alice to bob, where it goes on with all that it wrote; the guest there."""
    product.migrate(lab.alice, "bob", name=name)
    moved = Guest(lab.bob, name)
    moved.wait_line(r"^XH xvda seq=", 200)
    _written(moved)
    _sound(moved, lab.alice, lab.bob)
    product.assert_steady(lab, [f"{name}-xvda"], lab.bob)
    return moved


@pytest.mark.layer("paired")
def test_an_emulated_disk_is_flushed_before_the_other_side_promotes(lab: Lab) -> None:
    """Without PV drivers every write goes through QEMU, which keeps it in dom0's memory."""
    alice, bob = lab.hosts
    image = lab.both(lambda host: kinds.initrd(host, "emulated", kinds.EMULATED_MODULES, kinds.EMULATED))[0]
    alice.run("lvcreate -q -y -Wy -L 32M -n win1-c vg0")
    alice.write(
        "/etc/xen/win1.cfg",
        kinds.config(
            "win1", "hvm", "phy:/dev/vg0/win1-c,hda,w", f"{CMDLINE} xen_emul_unplug=never",
            ramdisk=f'"{image}"', memory="128", vnc="0", nographic="1",
        ),
    )  # fmt: skip
    alice.run("xl create /etc/xen/win1.cfg", timeout=300)
    guest = Guest(alice, "win1")
    guest.wait_writing(disks=1, timeout=400)
    product.wait_in_sync(alice, "win1-hda")
    minor = product.minor(alice, "win1-hda")
    assert kinds.qemu_opens(alice, "win1") == [f"/dev/drbd{minor}"], "QEMU is beneath DRBD"
    assert alice.out("xenstore-ls /local/domain/$(xl domid win1)/device/vbd | grep state || true") in (
        "",
        'state = "1"',
    ), "a PV driver has the disk"
    _written(guest)

    # held where bob would promote: what QEMU had kept must lie on bob's volume by now
    faults.arm(bob, AT_PROMOTION)
    alice.run(
        "nohup sh -c 'xl migrate win1 bob >/root/m.log 2>&1; echo $? >/root/m.status' "
        ">/dev/null 2>&1 </dev/null &"
    )
    pid = product.wait_until(
        lambda: bob.read(f"{faults.CRASH_AT}.held").split() or alice.read("/root/m.status"),
        300,
        "the promotion",
    )[0]
    assert product.net(alice, "win1-hda") == product.Net("C", True), alice.read("/root/m.log")
    there, here = lab.both(lambda host: product.checksum(host, "/dev/vg0/win1-c", 0, 32))
    before = guest.status()["xvda"].acked
    bob.run(f"rm -f {faults.CRASH_AT}.held; kill -CONT {pid}")
    assert there == here, "bob's volume isn't what QEMU was given on alice"
    product.wait_until(lambda: alice.read("/root/m.status").strip(), product.MIGRATE_TIMEOUT, "the migration")
    assert alice.read("/root/m.status").strip() == "0", alice.read("/root/m.log")
    moved = guest.on(bob)
    moved.wait_line(r"^XH xvda seq=", 200)
    _written(moved)
    assert moved.status()["xvda"].acked > before
    _sound(moved, alice, bob)
    assert kinds.qemu_opens(bob, "win1") == [f"/dev/drbd{product.minor(bob, 'win1-hda')}"]
    product.assert_steady(lab, ["win1-hda"], bob)

    # and back: alice has had this disk in its memory before
    product.migrate(bob, "alice", name="win1")
    guest.wait_progress(200)
    _written(guest)
    _sound(guest, alice, bob)
    product.assert_steady(lab, ["win1-hda"], alice)
    # a reboot from inside: QEMU is started anew on the same disk
    boots = len(guest.boots())
    guest.send("reboot")
    product.wait_until(lambda: len(guest.boots()) > boots, 400, "its next boot", every=2)
    assert guest.boots()[-1].holes == 0
    _written(guest)
    alice.run("xl shutdown win1 || true; xl destroy win1", timeout=120, check=False)
    product.wait_gone(alice, "win1")
    product.assert_steady(lab, ["win1-hda"], None)


@pytest.mark.layer("paired")
def test_hvm_with_pv_drivers(lab: Lab) -> None:
    alice, bob = lab.hosts
    alice.run("lvcreate -q -y -Wy -L 32M -n win2-c vg0")
    alice.write(
        "/etc/xen/win2.cfg",
        kinds.config(
            "win2", "hvm", "phy:/dev/vg0/win2-c,xvda,w", CMDLINE,
            ramdisk=f'"{kinds.BOOT}/guest.img"', memory="128", vnc="0", nographic="1",
        ),
    )  # fmt: skip
    story = Story("hvm")
    story.type(alice, "cat /etc/xen/win2.cfg")
    story.type(alice, "xl create /etc/xen/win2.cfg", timeout=300)
    guest = Guest(alice, "win2")
    guest.wait_writing(disks=1, timeout=400)
    product.wait_in_sync(alice, "win2-xvda")
    minor = product.minor(alice, "win2-xvda")
    assert set(kinds.qemu_opens(alice, "win2")) <= {f"/dev/drbd{minor}"}, "QEMU is beneath DRBD"
    _written(guest)
    with product.PermissionWatch(alice, "win2", "win2-xvda") as permission:
        story.type(alice, "xl migrate win2 bob", timeout=product.MIGRATE_TIMEOUT)
    assert permission.samples and permission.violations == []
    story.type(bob, "xenhelper status win2")
    story.end()
    moved = guest.on(bob)
    moved.wait_line(r"^XH xvda seq=", 200)
    _written(moved)
    _sound(moved, alice, bob)
    product.assert_steady(lab, ["win2-xvda"], bob)
    bob.run("xl destroy win2")


@pytest.mark.layer("paired")
def test_hvm_boots_from_its_disk_by_its_bios(lab: Lab) -> None:
    """No kernel in dom0: SeaBIOS and GRUB read the disk through QEMU, on either host."""
    alice, bob = lab.hosts
    alice.run("lvcreate -q -y -Wy -L 64M -n bios1-root vg0")
    kinds.boot_disk(alice, "/dev/vg0/bios1-root", f"{CMDLINE} xh.region=48,8")
    alice.write(
        "/etc/xen/bios1.cfg",
        kinds.config(
            "bios1", "hvm", "phy:/dev/vg0/bios1-root,xvda,w",
            memory="160", vnc="0", nographic="1", boot='"c"', hdtype='"ahci"',
        ),
    )  # fmt: skip
    alice.run("xl create /etc/xen/bios1.cfg", timeout=300)
    minor = product.minor(alice, "bios1-xvda")
    assert kinds.qemu_opens(alice, "bios1") == [f"/dev/drbd{minor}"], "the BIOS reads beneath DRBD"
    guest = Guest(alice, "bios1")
    guest.wait_writing(disks=1, timeout=600)
    product.wait_in_sync(alice, "bios1-xvda")
    _written(guest)
    moved = _moves(lab, "bios1")

    # the other host's QEMU has never read this disk before
    seen = len(moved.console())
    moved.send("reboot")
    product.wait_until(
        lambda: kinds.qemu_opens(bob, "bios1") == [f"/dev/drbd{product.minor(bob, 'bios1-xvda')}"],
        300,
        "QEMU to open the disk for the BIOS",
    )
    moved.wait_line(r"^XH xvda boot ", 600, after=seen)
    moved.wait_writing(disks=1, timeout=300)
    assert moved.boots()[-1].holes == 0
    product.assert_no_wrong_block(guest, alice, bob)
    product.assert_steady(lab, ["bios1-xvda"], bob)
    bob.run("xl destroy bios1")


@pytest.mark.layer("paired")
@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_pygrub_boots_what_the_guest_has_written(lab: Lab, kind: str) -> None:
    """pygrub reads the disk through DRBD in dom0, and again after the guest has changed it."""
    alice, bob = lab.hosts
    image = kinds.initrd(alice, "updated", kinds.UPDATED_MODULES, kinds.UPDATED)
    alice.run(
        "lvcreate -q -y -Wy -L 96M -n pyg1-root vg0; mkfs.ext4 -q -F /dev/vg0/pyg1-root 72M; "
        "mount /dev/vg0/pyg1-root /mnt; mkdir -p /mnt/boot/grub; "
        f"cp {kinds.BOOT}/vmlinuz /mnt/boot/vmlinuz; cp {image} /mnt/boot/initrd.img",
        timeout=180,
    )
    alice.write(
        "/mnt/boot/grub/grub.cfg",
        f'menuentry "lab" {{\nlinux /boot/vmlinuz {CMDLINE} xh.region=76,8 xh.old\n'
        "initrd /boot/initrd.img\n}\n",
    )
    alice.run("umount /mnt")
    alice.write(
        "/etc/xen/pyg1.cfg",
        kinds.config("pyg1", kind, "phy:/dev/vg0/pyg1-root,xvda,w", bootloader='"pygrub"', memory="128"),
    )
    alice.run("xl create /etc/xen/pyg1.cfg", timeout=300)
    guest = Guest(alice, "pyg1")
    guest.wait_line(r"^XH booted .*xh\.old", 300)
    guest.wait_line(r"^XH updated", 120)
    guest.wait_writing(disks=1, timeout=300)
    assert "xen-blkback" in alice.read("/proc/modules").replace("_", "-")
    assert (
        alice.out("xenstore-ls /local/domain/0/device/vbd 2>/dev/null | grep -c backend-id || true") == "0"
    ), "a disk stayed attached to dom0"
    product.wait_in_sync(alice, "pyg1-xvda")
    guest.send("reboot")
    guest.wait_line(r"^XH booted .*xh\.new", 300)
    guest.wait_writing(disks=1, timeout=300)
    product.assert_steady(lab, ["pyg1-xvda"], alice)
    if kind == "pvh":
        guest = _moves(lab, "pyg1")
        # the other host's dom0 has never read this file system
        seen = len(guest.console())
        guest.send("reboot")
        guest.wait_line(r"^XH booted .*xh\.new", 300, after=seen)
        guest.wait_writing(disks=1, timeout=300)
        product.assert_steady(lab, ["pyg1-xvda"], bob)
        bob.run("xl destroy pyg1")
    else:
        product.refused(alice, "xl migrate pyg1 bob", "pyg1", "PV")
        alice.run("xl destroy pyg1")


def test_what_xl_does_with_a_running_guest(lab: Lab) -> None:
    """Save and restore, a disk taken away and given back, another name, a crash."""
    alice = lab.alice
    guest = Guest(alice, "web1")
    alice.run("xl save web1 /root/web1.save", timeout=300)
    product.wait_gone(alice, "web1")
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], None)
    alice.run("xl restore /root/web1.save", timeout=300)
    guest.wait_progress(120)
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], alice)
    # its disks have gone on since: the image is too old now
    product.refused(alice, "xl restore /root/web1.save", "web1")

    guest.send("pause")
    product.detach(alice, "web1", "xvdb")
    product.wait_until(lambda: "ro:Secondary/Secondary" in alice.read("/proc/drbd"), 60, "xvdb to be let go")
    alice.run("xl block-attach web1 script=block-xenhelper,vdev=xvdb,target=web1-xvdb", timeout=120)
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], alice)
    product.refused(lab.bob, "xl block-attach 0 script=block-xenhelper,vdev=xvdz,target=web1-xvdb", "alice")
    guest.send("resume")

    # a crash is kept for the administrator, and the disks with it; then it starts again
    guest.send("crash")
    product.wait_until(lambda: "c" in alice.out("xl list web1 | awk 'NR == 2 {print $5}'"), 120, "the crash")
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], alice)
    alice.run("xl destroy web1")
    product.wait_gone(alice, "web1")
    alice.run("sed -i 's/^on_crash.*/on_crash = \"restart\"/' /etc/xen/web1.cfg")
    alice.run("xl create /etc/xen/web1.cfg", timeout=300)
    guest.wait_writing(disks=2, timeout=300)
    boots = len(guest.boots())
    guest.send("crash")
    product.wait_until(lambda: len(guest.boots()) >= boots + 2, 400, "the restart", every=2)
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], alice)

    # under another name it is still its disks' only user, and has its name back in a word
    alice.run("xl rename web1 shop")
    product.refused(lab.bob, "xl create /etc/xen/web1.cfg", "alice")
    product.refused(alice, "xl create /etc/xen/web1.cfg", "shop")
    product.refused(alice, "xl migrate shop bob", "web1", "xl rename shop web1")
    said = [problem["what"] for problem in product.status(alice, "web1")["problems"]]
    assert any("in use on alice" in what for what in said), said
    guest.wait_progress(120)
    alice.run("xl rename shop web1")
    assert product.status(alice, "web1")["problems"] == []
    product.migrate(alice, "bob")
    guest.on(lab.bob).wait_line(r"^XH xvdb seq=", 200)
    product.assert_steady(lab, ["web1-xvda", "web1-xvdb"], lab.bob)
