"""The fence-peer handler: when DRBD calls it, and what its exit status does (drbd_nl.c,
conn_try_outdate_peer()). 1 is no answer, 3 inconsistent, 4 outdated, 5 unreachable, 6 Primary."""

from __future__ import annotations

import pytest

from tests.lab.bare import MINOR, RESOURCE
from xenhelper.drbd import verbs

from .world import Host, World


@pytest.mark.parametrize(
    ("status", "peer_disk"),
    [
        pytest.param(4, "Outdated", marks=pytest.mark.core),
        (5, "Outdated"),
        (3, "Inconsistent"),
        (1, "DUnknown"),
    ],
)
def test_a_primary_that_loses_its_peer_calls_once(
    world: World, alice: Host, bob: Host, status: int, peer_disk: str
) -> None:
    alice.answer_fencing(status)
    alice.promote()
    before = alice.generations()
    world.lose_link()
    world.until(lambda: alice.fence_calls() == 1, "the handler to be called")
    world.until(lambda: alice.state().peer_disk == peer_disk, f"the peer's disk to be {peer_disk}")
    alice.write(1, 1)  # it goes on, whatever the answer
    assert (alice.state().role, alice.state().disk) == ("Primary", "UpToDate")
    assert alice.generations()[1] == before[0] != alice.generations()[0]
    world.pause(2.0)
    assert (alice.fence_calls(), bob.fence_calls()) == (1, 0)


@pytest.mark.core
def test_alone_it_promotes_only_with_the_handlers_word(world: World, bob: Host) -> None:
    world.lose_link()
    error = bob.refuses(verbs.primary, MINOR)
    assert error.status == verbs.STATE_CHANGE_FAILED
    assert verbs.FENCING_REFUSED in error.stderr
    assert bob.state().role == "Secondary"
    assert bob.fence_calls() == 4  # drbd_set_role() tries four times


@pytest.mark.parametrize("status", [4, 5])
def test_a_promotion_alone_begins_a_generation_at_once(world: World, bob: Host, status: int) -> None:
    before = bob.generations()
    world.lose_link()
    bob.answer_fencing(status)
    bob.promote()
    state = bob.state()
    assert (state.role, state.disk, state.peer_disk) == ("Primary", "UpToDate", "Outdated")
    assert bob.fence_calls() == 1
    after = bob.generations()
    assert after[1] == before[0] != after[0]
    bob.demote()  # doesn't undo it
    assert bob.generations() == after


def test_a_peer_that_is_primary_outdates_the_asker(world: World, bob: Host) -> None:
    world.lose_link()
    bob.answer_fencing(6)
    error = bob.refuses(verbs.primary, MINOR)
    assert (error.status, bob.fence_calls()) == (17, 1)
    assert (bob.state().role, bob.state().disk) == ("Secondary", "Outdated")


@pytest.mark.parametrize(
    ("status", "role", "disk"), [(5, "Secondary", "Consistent"), (4, "Primary", "UpToDate")]
)
def test_after_a_start_alone_only_outdated_will_do(
    world: World, bob: Host, status: int, role: str, disk: str
) -> None:
    """A disk that is merely Consistent may be older than the peer's: "unreachable" isn't enough."""
    world.lose_link()
    assert bob.adm("down", RESOURCE).status == 0
    assert bob.adm("up", RESOURCE).status == 0
    assert bob.state().disk == "Consistent"
    bob.answer_fencing(status)
    if role == "Primary":
        bob.promote()
    else:
        error = bob.refuses(verbs.primary, MINOR)
        assert (error.status, bob.fence_calls()) == (17, 4)
        assert verbs.NOT_UP_TO_DATE in error.stderr
    assert (bob.state().role, bob.state().disk) == (role, disk)


def test_nobody_is_called_while_the_peer_is_connected(alice: Host, bob: Host) -> None:
    alice.promote()
    bob.refuses(verbs.primary, MINOR)
    alice.demote()
    bob.promote()
    assert (alice.fence_calls(), bob.fence_calls()) == (0, 0)
