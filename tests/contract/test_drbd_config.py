"""drbdadm with the VM's own file: up, adjust, connect, disconnect, down."""

from __future__ import annotations

import pytest

from tests.lab.bare import MINOR, RESOURCE
from xenhelper.drbd import verbs

from .world import Host, World


@pytest.mark.core
def test_a_goodbye_outdates_a_secondary(world: World, alice: Host, bob: Host) -> None:
    """It leaves a Primary: its own disk becomes Outdated first, so no handler is called."""
    alice.promote()
    before = alice.generations()
    assert bob.adm("disconnect", RESOURCE).status == 0
    assert (bob.state().connection, bob.state().disk) == ("StandAlone", "Outdated")
    state = world.until(lambda: not (state := alice.state()).connected and state, "alice to notice")
    assert state.peer_disk == "Outdated"
    assert alice.generations()[1] == before[0]
    assert alice.fence_calls() == 0
    assert bob.refuses(verbs.primary, MINOR).status == 17
    alice.write(1, 1)
    assert bob.adm("connect", RESOURCE).status == 0
    world.wait_in_sync()
    assert bob.on_disk(1) == 1


def test_a_primary_that_leaves_outdates_its_peer(world: World, alice: Host, bob: Host) -> None:
    alice.promote()
    assert alice.adm("disconnect", RESOURCE).status == 0
    assert (alice.state().connection, alice.state().peer_disk) == ("StandAlone", "Outdated")
    world.until(lambda: bob.state().disk == "Outdated", "bob to be outdated")
    assert alice.fence_calls() == 0


def test_two_secondaries_part_as_they_are(world: World, alice: Host, bob: Host) -> None:
    before = alice.generations()
    assert alice.adm("disconnect", RESOURCE).status == 0
    assert (alice.state().connection, alice.state().disk) == ("StandAlone", "UpToDate")
    world.until(lambda: not bob.state().connected, "bob to notice")
    assert bob.state().disk == "UpToDate"
    assert alice.adm("connect", RESOURCE).status == 0
    world.wait_in_sync()
    assert alice.generations() == bob.generations() == before


def test_connect_and_disconnect_twice_are_10(alice: Host) -> None:
    assert alice.adm("connect", RESOURCE).status == 10
    assert alice.state().in_sync
    assert alice.adm("disconnect", RESOURCE).status == 0
    assert alice.adm("disconnect", RESOURCE).status == 10


def test_adjust_on_what_is_as_it_should_be_changes_nothing(alice: Host) -> None:
    alice.promote()
    before = alice.run(["drbdsetup", "show", RESOURCE]).stdout
    assert alice.adm("adjust", RESOURCE).status == 0
    assert alice.run(["drbdsetup", "show", RESOURCE]).stdout == before
    assert (alice.state().role, alice.state().in_sync) == ("Primary", True)


def test_adjust_closes_a_window(world: World, alice: Host, bob: Host) -> None:
    alice.promote()
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "bob to follow")
    assert alice.adm("adjust", RESOURCE).status == 0
    assert alice.net() == ("A", False)
    world.until(lambda: bob.net() == ("A", False), "bob to follow")


def test_down_and_up_again(world: World, alice: Host, bob: Host) -> None:
    before = alice.generations()
    assert alice.adm("down", RESOURCE).status == 0
    assert alice.state_or_none() is None
    assert alice.run(["drbdsetup", "show-gi", str(MINOR)]).status == 10
    world.until(lambda: not bob.state().connected, "bob to notice")
    assert alice.adm("down", RESOURCE).status == 0  # again is no error
    assert alice.adm("up", RESOURCE).status == 0
    world.wait_in_sync()
    assert alice.generations() == before
    assert alice.net() == ("A", False)


def test_adjust_brings_up_what_is_down(world: World, bob: Host) -> None:
    assert bob.run(["drbdsetup", "down", RESOURCE]).status == 0
    assert bob.adm("adjust", RESOURCE).status == 0
    world.wait_in_sync()


def test_down_demotes_what_nobody_uses(world: World, alice: Host) -> None:
    alice.promote()
    # udev looks at what was just promoted, and holds it for a moment
    world.until(lambda: alice.run(["drbdsetup", "down", RESOURCE]).status == 0, "the resource to go down")
    assert alice.state_or_none() is None


def test_down_spares_what_is_in_use(alice: Host) -> None:
    alice.promote()
    with alice.hold_open():
        result = alice.run(["drbdsetup", "down", RESOURCE])
        assert result.status == verbs.STATE_CHANGE_FAILED
        assert verbs.HELD_OPEN in result.stderr
    assert (alice.state().role, alice.state().in_sync) == ("Primary", True)


def test_a_secondary_goes_down_outdated(world: World, alice: Host, bob: Host) -> None:
    """What it had is older from then on, and its metadata says so after the next start."""
    alice.promote()
    assert bob.run(["drbdsetup", "down", RESOURCE]).status == 0
    world.until(lambda: alice.state().peer_disk == "Outdated", "alice to be told")
    assert alice.fence_calls() == 0
    world.cut_link()
    assert bob.adm("up", RESOURCE).status == 0
    assert bob.state().disk == "Outdated"
    assert bob.refuses(verbs.primary, MINOR).status == 17
