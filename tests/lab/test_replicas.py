"""A host lost its volumes: its half of a VM is made anew from the other host, guest running."""

from __future__ import annotations

from . import product, scenario
from .guest import Guest
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]


def test_a_lost_half_is_made_from_the_peer(lab: Lab) -> None:
    alice, bob = lab.alice, lab.bob
    guest = Guest(alice, "web1").on(bob)
    alice.run("xl destroy web1")
    bob.run("xl create /etc/xen/web1.cfg", timeout=120)
    guest.wait_writing(disks=2)
    product.refused(alice, "xenhelper replicate web1 --from-peer", "no volume of it is missing", status=3)
    alice.run("for r in web1-xvda web1-xvdb; do drbdsetup down $r; done; lvremove -q -y vg0")
    assert alice.out("lvs --noheadings vg0") == ""
    dry = alice.run("xenhelper replicate web1 --from-peer --dry-run")
    assert "would make web1-xvda: /dev/vg0/web1-root of 64 MiB and fill it from bob" in dry.out
    assert alice.out("lvs --noheadings vg0") == ""
    print(alice.run("xenhelper replicate /etc/xen/web1.cfg --from-peer").out)
    product.wait_in_sync(alice, *RESOURCES)
    guest.wait_progress()
    assert all(wrong == 0 for wrong, _ in guest.verify().values())
    product.assert_steady(lab, RESOURCES, bob)
    # what the guest doesn't write to is the same, bit by bit
    for name, size in scenario.VOLUMES.items():
        for start, count in ((0, 8), (24, size - 24)):
            sums = {product.checksum(host, f"/dev/vg0/{name}", start, count) for host in lab.hosts}
            assert len(sums) == 1, f"{name} from {start} MiB on differs"
    bob.run("xl destroy web1")
    alice.run("xl create /etc/xen/web1.cfg", timeout=120)
    back = guest.on(alice)
    seen = len(back.boots())
    back.wait_writing(disks=2)
    assert len(back.boots()) >= seen and all(report.holes == 0 for report in back.boots())
    product.assert_no_wrong_block(guest, alice, bob)
    product.assert_steady(lab, RESOURCES, alice)
