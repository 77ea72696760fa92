"""Writes in flight: what an acknowledgment means at A and at C, and the barrier between."""

from __future__ import annotations

import pytest

from tests.lab.bare import MINOR, RESOURCE
from xenhelper.drbd import barrier, verbs

from .world import Host, World

SUMMARY = f"/sys/kernel/debug/drbd/resources/{RESOURCE}/in_flight_summary"


def write_in_flight(alice: Host, bob: Host, switched: bool = False) -> int:
    """What was written to block 0 on ``alice`` at A, is acknowledged, and isn't on ``bob``'s disk,
    nor was it after the switch to C, if there is to be one. A slow machine may look too late, and
    then nothing would be proved: again."""
    for number in range(1, 6):
        alice.set_net("A", False)
        alice.write_behind_burst(0, number)
        if switched:
            alice.set_net("C", False)
        if bob.on_disk(0) != number:
            return number
    pytest.fail("each write was on the other disk before anybody looked")


def test_a_write_at_c_is_on_both_disks_once_acknowledged(alice: Host, bob: Host) -> None:
    alice.promote()
    alice.set_net("C", False)
    for number in (1, 2, 3):
        alice.write(number, 10 + number)
        assert alice.on_disk(number) == bob.on_disk(number) == 10 + number


def test_a_write_at_a_is_acknowledged_before_it_arrives(world: World, alice: Host, bob: Host) -> None:
    alice.promote()
    world.slow_link()
    number = write_in_flight(alice, bob)
    assert alice.on_disk(0) == number
    # it is still listed, and from before now: what a drain waits for
    assert barrier.oldest_write_ms(alice.read_file(SUMMARY)) is not None
    assert alice.do(barrier.unconfirmed_since, RESOURCE, world.now())
    world.until(lambda: bob.on_disk(0) == number, "the write to arrive")


@pytest.mark.core
def test_behind_the_barrier_nothing_acknowledged_is_missing(world: World, alice: Host, bob: Host) -> None:
    """The hand-over's order (docs): C, drain, two-primaries as the marker behind all data; once
    the peer shows the marker and its disk has nothing pending, it has every write."""
    alice.promote()
    world.slow_link()
    number = write_in_flight(alice, bob)
    alice.set_net("C", False)
    switched = world.now()
    alice.do(barrier.drain, RESOURCE, MINOR, switched, 60.0)
    assert not alice.do(barrier.unconfirmed_since, RESOURCE, switched - 0.1)
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "the marker")
    bob.do(verbs.wait_until, RESOURCE, 60.0, "drained")
    assert bob.on_disk(0) == number
    assert alice.do(barrier.quiet, RESOURCE, 30.0).upper_pending == 0
    bob.promote()
    assert bob.state().in_sync


def test_the_switch_to_c_alone_is_no_barrier(world: World, alice: Host, bob: Host) -> None:
    """A request's mode is fixed when it is queued: what was written at A stays unconfirmed."""
    alice.promote()
    world.slow_link()
    number = write_in_flight(alice, bob, switched=True)
    assert alice.net() == ("C", False)
    world.until(lambda: bob.on_disk(0) == number, "the write to arrive")


def test_resume_io_returns_at_once_where_nothing_is_written(world: World, alice: Host) -> None:
    alice.promote()
    began = world.now()
    assert alice.run(["drbdsetup", "resume-io", str(MINOR)]).status == 0
    assert world.now() - began < 5.0
    alice.write(1, 1)
    assert not alice.state().suspended


def test_a_demoted_side_has_nothing_in_flight(world: World, alice: Host, bob: Host) -> None:
    """A cold move: after the demotion the other side has it all once its disk has nothing
    pending and nothing is unconfirmed (stepdown.py)."""
    alice.promote()
    world.slow_link()
    alice.write_behind_burst(0, 8)
    alice.demote()
    demoted = world.now()
    world.until(lambda: not alice.do(barrier.unconfirmed_since, RESOURCE, demoted), "the peer to confirm")
    bob.do(verbs.wait_until, RESOURCE, 60.0, "drained")
    assert bob.on_disk(0) == 8
    bob.promote()
