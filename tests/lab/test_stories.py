"""The operations page, story by story: each command as printed there, and what must come of it."""

from __future__ import annotations

from . import product
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
