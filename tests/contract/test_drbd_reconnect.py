"""Meeting again: who syncs from whom, what is a split brain, and what ends one."""

from __future__ import annotations

import pytest

from tests.lab.bare import MINOR, RESOURCE
from xenhelper.drbd import verbs

from .world import Host, World


def alone(world: World, *hosts: Host) -> None:
    """Each of these becomes (or stays) Primary without its peer; nobody is otherwise."""
    for host in hosts:
        host.answer_fencing(4)
    world.lose_link()
    for host in hosts:
        host.promote()


@pytest.mark.core
def test_the_side_that_went_on_is_the_source(world: World, alice: Host, bob: Host) -> None:
    alice.answer_fencing(4)
    alice.promote()
    world.lose_link()
    alice.write(1, 11)
    assert alice.state().out_of_sync > 0
    assert bob.on_disk(1) == 0
    world.heal_link()
    world.wait_in_sync()
    assert bob.on_disk(1) == 11
    assert bob.generations()[:2] == alice.generations()[:2]
    assert alice.generations()[1] == 0
    assert alice.state().out_of_sync == 0


def test_the_target_is_inconsistent_until_the_end(world: World, alice: Host, bob: Host) -> None:
    alice.answer_fencing(4)
    alice.promote()
    world.lose_link()
    for block in range(8):
        alice.write(block, 20 + block)
    alice.burst()
    world.slow_link()
    world.replug_link()
    seen = world.until(
        lambda: (state := bob.state()).replication == "SyncTarget" and state, "the resync to run"
    )
    assert (seen.disk, seen.peer_disk, seen.in_sync) == ("Inconsistent", "UpToDate", False)
    state = alice.state()
    assert (state.replication, state.peer_disk, state.in_sync) == ("SyncSource", "Inconsistent", False)
    world.heal_link()
    world.wait_in_sync()
    assert [bob.on_disk(block) for block in range(7)] == [20 + block for block in range(7)]


def test_a_promotion_without_a_write_counts_too(world: World, alice: Host, bob: Host) -> None:
    alone(world, bob)
    bob.demote()
    current = bob.generations()[0]
    world.heal_link()
    world.wait_in_sync()
    assert alice.generations()[0] == bob.generations()[0] == current


@pytest.mark.core
@pytest.mark.expects("split-brain")
def test_writes_on_both_sides_are_a_split_brain(world: World, alice: Host, bob: Host) -> None:
    alone(world, alice, bob)
    alice.write(1, 31)
    bob.write(2, 32)
    alice.demote()
    bob.demote()
    mine, theirs = alice.generations(), bob.generations()
    assert mine[0] != theirs[0] and mine[1] == theirs[1] != 0
    world.heal_link()
    world.stay_apart()
    # nothing is discarded by machine
    assert (alice.on_disk(1), alice.on_disk(2)) == (31, 0)
    assert (bob.on_disk(1), bob.on_disk(2)) == (0, 32)
    assert (alice.generations(), bob.generations()) == (mine, theirs)


@pytest.mark.expects("split-brain")
def test_giving_up_one_side_ends_it(world: World, alice: Host, bob: Host) -> None:
    alone(world, alice, bob)
    alice.write(1, 41)
    bob.write(2, 42)
    bob.demote()  # alice goes on
    world.heal_link()
    world.stay_apart()
    if bob.state().connection != "StandAlone":
        assert bob.adm("disconnect", RESOURCE).status == 0
    assert bob.adm("connect", "--discard-my-data", RESOURCE).status == 0
    if alice.state().connection == "StandAlone":
        assert alice.adm("connect", RESOURCE).status == 0
    world.wait_in_sync()
    assert (bob.on_disk(1), bob.on_disk(2)) == (41, alice.on_disk(2)) == (41, 0)
    assert alice.state().role == "Primary"


def test_a_primary_cant_give_up_its_side(world: World, alice: Host) -> None:
    alone(world, alice)
    assert alice.adm("disconnect", RESOURCE).status == 0
    result = alice.adm("connect", "--discard-my-data", RESOURCE)
    assert result.status == 10
    assert "discard-my-data not allowed when primary" in result.stderr
    assert alice.state().connection == "StandAlone"


@pytest.mark.expects("split-brain", "split-brain-solved")
@pytest.mark.parametrize("demoted", ["both", "bob"])
def test_a_side_that_wrote_nothing_gives_way(world: World, alice: Host, bob: Host, demoted: str) -> None:
    """after-sb-0pri discard-zero-changes, after-sb-1pri consensus."""
    alone(world, alice, bob)
    alice.write(1, 51)
    bob.demote()
    if demoted == "both":
        alice.demote()
    world.heal_link()
    world.wait_in_sync()
    assert alice.on_disk(1) == bob.on_disk(1) == 51


@pytest.mark.expects("split-brain")
def test_a_primary_never_gives_way(world: World, alice: Host, bob: Host) -> None:
    """after-sb-1pri consensus: the loser would be the Primary, though it wrote nothing."""
    alone(world, alice, bob)
    bob.write(2, 62)
    bob.demote()
    world.heal_link()
    world.stay_apart()
    assert (alice.on_disk(2), bob.on_disk(2)) == (0, 62)


@pytest.mark.expects("split-brain")
def test_two_primaries_never_meet(world: World, alice: Host, bob: Host) -> None:
    alone(world, alice, bob)
    world.heal_link()
    world.stay_apart()
    assert {alice.state().role, bob.state().role} == {"Primary"}


def test_a_link_lost_with_both_primary_is_a_split_brain_without_a_write(
    world: World, alice: Host, bob: Host
) -> None:
    alice.promote()
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "bob to be permitted")
    bob.promote()
    before = alice.generations()[0]
    for host in world.hosts:
        host.answer_fencing(1)
    world.lose_link()
    world.until(
        lambda: all(host.generations()[1] == before for host in world.hosts), "both to begin a generation"
    )
    assert alice.generations()[0] != bob.generations()[0]


def test_demoting_first_avoids_it(world: World, alice: Host, bob: Host) -> None:
    alice.promote()
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "bob to be permitted")
    bob.promote()
    bob.answer_fencing(4)
    alice.demote()
    world.until(lambda: bob.state().peer_role == "Secondary", "bob to see the demotion")
    before = alice.generations()
    world.lose_link()
    bob.write(3, 73)
    assert alice.generations() == before
    world.heal_link()
    world.wait_in_sync()
    assert alice.on_disk(3) == 73


def test_a_crashed_primary_is_told_from_its_metadata(world: World, alice: Host, bob: Host) -> None:
    """Power cut: the survivor was Secondary; what the Primary had in its activity log is synced
    from it again, even with equal generations."""
    alice.promote()
    alice.set_net("C", False)
    alice.write(4, 84)
    current = alice.generations()[0]
    alice.set_net("A", False)
    world.until(lambda: bob.net() == ("A", False), "bob to follow")
    world.crash(alice)
    assert bob.do(verbs.lineage, MINOR) == (current, 0, False)
    world.cut_link()
    alice.adm("up", RESOURCE)
    # the same generation as the survivor's; that it was Primary is told by a flag alone
    assert alice.do(verbs.lineage, MINOR) == (current, 0, True)
    world.heal_link()
    world.wait_in_sync()
    assert alice.on_disk(4) == bob.on_disk(4) == 84
    assert alice.generations()[0] == bob.generations()[0]
    assert (alice.state().role, bob.state().role) == ("Secondary", "Secondary")
    # the kernel forgets it once they have met, and writes that down with the next change of state
    # (after_state_ch, drbd_state.c): by the time that anybody asks, they are apart again
    world.cut_link()
    world.until(lambda: not alice.state().connected, "alice to notice the cut")
    assert alice.do(verbs.lineage, MINOR)[2] is False
