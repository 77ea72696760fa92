"""In-guest reboots: with the peer connected, cut off, cleanly shut down, dead (promise 6)."""

from __future__ import annotations

import pytest

from . import product
from .guest import Guest
from .lab import Lab

RESOURCES = ["web1-xvda", "web1-xvdb"]


def _reboot(lab: Lab) -> None:
    """Reboot inside the guest on alice: it comes back by itself, with every acknowledged block."""
    guest = Guest(lab.alice, "web1")
    guest.wait_progress(120)
    acked = {disk: report.acked for disk, report in guest.status().items()}
    seen = len(guest.boots())
    guest.send("reboot")
    product.wait_until(lambda: len(guest.boots()) >= seen + 2, 240, "the guest to boot again", every=1)
    for report in guest.boots()[seen:]:
        assert report.holes == 0 and report.full >= acked[report.disk], report
    guest.wait_progress(120)
    product.assert_no_wrong_block(guest, lab.alice)


@pytest.mark.core
def test_with_the_peer_connected_then_cut_off(lab: Lab) -> None:
    _reboot(lab)
    product.assert_steady(lab, RESOURCES, lab.alice)
    lab.cut_link()
    _wait_lost(lab)
    _reboot(lab)
    lab.heal()
    product.wait_in_sync(lab.alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, lab.alice)


def test_with_both_paths_cut(lab: Lab) -> None:
    lab.cut_link()
    lab.cut_second_path()
    _wait_lost(lab)
    _reboot(lab)
    lab.heal()
    product.wait_in_sync(lab.alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, lab.alice)


@pytest.mark.expects("qemu-crash")
def test_with_the_peer_cleanly_shut_down(lab: Lab) -> None:
    lab.bob.shutdown()
    _wait_lost(lab)
    _reboot(lab)
    lab.bob.power_on()
    product.wait_in_sync(lab.alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, lab.alice)


def test_with_the_peer_dead(lab: Lab) -> None:
    lab.bob.power_off()
    _wait_lost(lab)
    _reboot(lab)
    _reboot(lab)
    lab.bob.power_on()
    product.wait_in_sync(lab.alice, *RESOURCES)
    product.assert_steady(lab, RESOURCES, lab.alice)


def test_reboot_before_the_loss_is_noticed(lab: Lab) -> None:
    """The peer dies and the guest reboots at once, within DRBD's own time-outs."""
    lab.bob.power_off()
    _reboot(lab)


def _wait_lost(lab: Lab) -> None:
    product.wait_until(
        lambda: "cs:Connected" not in lab.alice.read("/proc/drbd"), 120, "alice to notice that bob is gone"
    )
