"""Promoting, demoting, outdating: what DRBD allows, and how it says no."""

from __future__ import annotations

import pytest

from tests.lab.bare import MINOR
from xenhelper.drbd import verbs
from xenhelper.errors import XenhelperError

from .world import Host, World


def test_roles_are_seen_on_both_sides(world: World, alice: Host, bob: Host) -> None:
    alice.promote()
    assert (alice.state().role, bob.state().peer_role) == ("Primary", "Primary")
    alice.promote()  # again is no error
    alice.demote()
    assert alice.state().role == "Secondary"
    world.until(lambda: bob.state().peer_role == "Secondary", "bob to see the demotion")
    alice.demote()
    bob.promote()
    assert (bob.state().role, alice.state().peer_role) == ("Primary", "Primary")


def test_only_a_primary_can_be_opened(alice: Host, bob: Host) -> None:
    alice.promote()
    assert alice.open_device(writing=True) == ""
    assert bob.open_device(writing=True) == "Read-only file system"
    assert bob.open_device(writing=False) == "Wrong medium type"


@pytest.mark.core
def test_a_second_primary_needs_permission(alice: Host, bob: Host) -> None:
    alice.promote()
    error = bob.refuses(verbs.primary, MINOR)
    assert error.status == verbs.STATE_CHANGE_FAILED
    assert error.stderr.startswith(f"{MINOR}: State change failed: {verbs.TWO_PRIMARIES} ")
    assert bob.state().role == "Secondary"


def test_a_refused_second_primary_waits_for_a_ping(world: World, alice: Host, bob: Host) -> None:
    """drbd_set_role() gives a peer that may be dead its ping time-out (3 s, resfile.py): the
    product's own limits must be longer."""
    alice.promote()
    began = world.now()
    bob.refuses(verbs.primary, MINOR)
    assert 3.0 <= world.now() - began < 8.0


@pytest.mark.core
def test_two_primaries_and_back_in_one_call(world: World, alice: Host, bob: Host) -> None:
    alice.promote()
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "bob to be permitted")
    bob.promote()
    assert {alice.state().role, bob.state().role} == {"Primary"}
    for host in (alice, bob):
        with pytest.raises(XenhelperError) as caught:
            host.set_net("A", False)
        assert caught.value.status == 10  # type: ignore[attr-defined]
        assert "(164)" in caught.value.stderr  # type: ignore[attr-defined]
    alice.demote()
    world.until(lambda: bob.state().peer_role == "Secondary", "bob to see the demotion")
    bob.set_net("A", False)
    assert bob.net() == ("A", False)
    world.until(lambda: alice.net() == ("A", False), "alice to follow")
    assert alice.refuses(verbs.primary, MINOR).status == 11


@pytest.mark.core
def test_a_held_device_is_not_demoted(world: World, alice: Host) -> None:
    alice.promote()
    with alice.hold_open():
        result = alice.run(["drbdsetup", "secondary", str(MINOR)])
        assert result.status == verbs.STATE_CHANGE_FAILED
        assert verbs.HELD_OPEN in result.stderr
        assert alice.state().role == "Primary"
    alice.demote()
    assert alice.state().role == "Secondary"


def test_outdate_does_nothing_while_connected(alice: Host) -> None:
    """Outdated vanishes on a connection (sanitize_state(), drbd_state.c): exit 0, no change;
    so whoever relies on it looks again."""
    assert alice.run(["drbdsetup", "outdate", str(MINOR)]).status == 0
    assert alice.state().disk == "UpToDate"


def test_an_outdated_disk_is_not_promoted(world: World, alice: Host) -> None:
    world.lose_link()
    alice.answer_fencing(4)
    alice.do(verbs.outdate, MINOR)
    assert alice.state().disk == "Outdated"
    alice.do(verbs.outdate, MINOR)  # again is no error
    error = alice.refuses(verbs.primary, MINOR)
    assert error.status == 17
    assert verbs.NOT_UP_TO_DATE in error.stderr
    assert alice.fence_calls() == 0
    world.heal_link()
    world.wait_in_sync()


def test_a_primary_alone_is_not_outdated(world: World, alice: Host) -> None:
    alice.answer_fencing(4)
    alice.promote()
    world.lose_link()
    error = alice.refuses(verbs.outdate, MINOR)
    assert error.status == 17
    assert alice.state().disk == "UpToDate"
