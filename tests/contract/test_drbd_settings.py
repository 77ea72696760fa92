"""Protocol and two-primaries: changed while connected, refused, and lost in a handshake."""

from __future__ import annotations

import pytest

from tests.lab.bare import RESOURCE
from xenhelper.errors import CommandFailed, XenhelperError

from .world import Host, World


def test_either_side_sets_both(world: World, alice: Host, bob: Host) -> None:
    for one, other in ((alice, bob), (bob, alice)):
        one.set_net("C", False)
        assert one.net() == ("C", False)
        world.until(lambda other=other: other.net() == ("C", False), f"{other.name} to follow")
        one.set_net("A", False)
        world.until(lambda other=other: other.net() == ("A", False), f"{other.name} to follow")
    assert alice.state().in_sync and bob.state().in_sync


def test_two_primaries_need_protocol_c(alice: Host, bob: Host) -> None:
    with pytest.raises(CommandFailed) as caught:
        alice.set_net("A", True)
    assert caught.value.status == 10
    assert "(139) Protocol C required" in caught.value.stderr
    assert alice.net() == bob.net() == ("A", False)


def test_what_is_not_named_stays(alice: Host) -> None:
    """net-options changes only what it is given."""
    alice.set_net("C", True)
    settings = alice.settings()
    argv = ["drbdsetup", "net-options", settings.local, settings.remote, "--allow-two-primaries=no"]
    assert alice.run(argv).status == 0
    assert alice.net() == ("C", False)


def test_without_a_connection_there_is_nothing_to_set(alice: Host) -> None:
    before = alice.settings()
    assert alice.adm("disconnect", RESOURCE).status == 0
    after = alice.settings()
    assert (after.local, after.remote) == ("", "")
    with pytest.raises(XenhelperError, match="StandAlone"):
        alice.set_net("A", False)
    result = alice.run(["drbdsetup", "net-options", before.local, before.remote, "--protocol=C"])
    assert result.status == 10
    assert "(162)" in result.stderr


def test_settings_can_be_changed_while_the_peer_is_away(world: World, alice: Host, bob: Host) -> None:
    world.lose_link()
    alice.set_net("C", False)
    assert alice.net() == ("C", False)
    assert bob.net() == ("A", False)
    alice.set_net("A", False)
    world.heal_link()
    world.wait_in_sync()


@pytest.mark.core
def test_settings_that_differ_end_in_standalone(world: World, alice: Host, bob: Host) -> None:
    """The side that finds the difference gives up for good, the other goes on waiting or gives
    up, too; both have to have the same again before they meet."""
    world.lose_link()
    alice.set_net("C", False)
    world.heal_link()
    world.stay_apart()
    if alice.state().connection != "StandAlone":
        alice.set_net("A", False)
    for host in world.hosts:
        assert host.adm("adjust", RESOURCE).status == 0
    world.wait_in_sync()
    assert alice.net() == bob.net() == ("A", False)
