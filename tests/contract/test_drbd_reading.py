"""What DRBD's tools print, and how they say that something isn't there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from tests.lab.bare import ADDRESSES, META, MINOR, PORT, RESOURCE, SIZE_MIB, VOLUME
from xenhelper.drbd import barrier, events, proc, show, verbs

from .world import Host, World

CAPTURED = Path(__file__).parents[1] / "unit" / "captured"


def test_events_of_a_pair_in_sync(alice: Host, bob: Host) -> None:
    alice.promote()
    for host, role, peer_role in ((alice, "Primary", "Secondary"), (bob, "Secondary", "Primary")):
        state = host.state()
        assert (state.role, state.peer_role) == (role, peer_role)
        assert (state.disk, state.peer_disk) == ("UpToDate", "UpToDate")
        assert (state.connection, state.replication, state.in_sync) == ("Connected", "Established", True)
        assert (state.minor, state.size, state.suspended) == (MINOR, SIZE_MIB << 20, False)
        assert (state.out_of_sync, state.upper_pending, state.lower_pending) == (0, 0, 0)
        assert state.done_percent is None


EVENTS = ["drbdsetup", "events2", "--now", "--statistics", RESOURCE]


def captured(name: str) -> str:
    """Real output (tests/unit/captured), of this resource only."""
    lines = (CAPTURED / f"{name}.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if f"name:{RESOURCE} " in line or line == "exists -\n")


def shape(text: str) -> list[list[str]]:
    """Each line's words, of ``key:value`` the key."""
    return [[word.split(":")[0] for word in line.split()] for line in text.splitlines()]


def test_events_have_the_captured_shape(alice: Host, bob: Host) -> None:
    result = alice.run(EVENTS)
    assert shape(result.stdout) == shape(captured("events2-now-statistics-connected-idle-alice"))
    assert (result.status, result.stderr) == (0, "")
    bob.adm("disconnect", RESOURCE)
    assert shape(bob.run(EVENTS).stdout) == shape(captured("events2-now-statistics-standalone-at-bob-bob"))


def test_proc_drbd_follows_a_connection(world: World, alice: Host, bob: Host) -> None:
    def seen(host: Host) -> tuple[str, str, str, str, str, bool]:
        version, states = host.do(proc.read)
        assert version.startswith("8.4.")
        state = states[MINOR]
        return (
            state.connection, state.role, state.peer_role, state.disk, state.peer_disk, state.talks
        )  # fmt: skip

    alice.promote()
    assert seen(alice) == ("Connected", "Primary", "Secondary", "UpToDate", "UpToDate", True)
    assert bob.adm("disconnect", RESOURCE).status == 0
    assert seen(bob) == ("StandAlone", "Secondary", "Unknown", "Outdated", "DUnknown", False)
    world.until(
        lambda: seen(alice) == ("WFConnection", "Primary", "Unknown", "UpToDate", "Outdated", False),
        "alice to wait for bob",
    )
    bob.adm("down", RESOURCE)
    assert MINOR not in bob.do(proc.read)[1]


def both_ways(host: Host) -> tuple[dict[str, object] | None, dict[str, object]]:
    """The state by /proc/drbd (None where it isn't to be read there), and by drbdsetup."""

    def quick() -> events.Resource | None:
        record = SimpleNamespace(read=lambda _: {"minor": str(MINOR)})
        with (
            mock.patch.object(events, "statefile", record),
            mock.patch.object(proc, "os", SimpleNamespace(readlink=host.read_link)),
        ):
            return events._connected(RESOURCE)

    seen, told = host.do(quick), host.do(events.snapshot, RESOURCE)[RESOURCE]
    told.protocol = host.settings().protocol  # which events2 doesn't say
    words = [{key: getattr(one, key) for key in one.__slots__} for one in (seen or told, told)]
    return (words[0] if seen else None), words[1]


@pytest.mark.core
def test_proc_drbd_says_of_a_connected_resource_what_drbdsetup_does(
    world: World, alice: Host, bob: Host
) -> None:
    """events.one() reads the one where it can, without a fork, and else asks the other."""

    def agree() -> None:
        for host in (alice, bob):
            seen, told = both_ways(host)
            assert seen == told, host.name

    agree()
    alice.promote()
    agree()
    alice.set_net("C", True)
    world.until(lambda: bob.net() == ("C", True), "bob to be permitted")
    bob.promote()
    agree()
    bob.demote()
    alice.set_net("A", False)
    world.until(lambda: bob.net() == ("A", False), "bob to be told")
    agree()
    bob.adm("disconnect", RESOURCE)
    assert [both_ways(host)[0] for host in (alice, bob)] == [None, None]


def test_show_tells_what_a_connected_resource_runs_with(alice: Host, bob: Host) -> None:
    for host, peer in ((alice, bob), (bob, alice)):
        settings = host.settings()
        assert (settings.protocol, settings.two_primaries) == ("A", False)
        assert settings.local == f"ipv4:{ADDRESSES[host.name]}:{PORT}"
        assert settings.remote == f"ipv4:{ADDRESSES[peer.name]}:{PORT}"
        assert (settings.minor, settings.volume, settings.meta) == (MINOR, VOLUME, META)


def test_show_leaves_out_defaults(alice: Host) -> None:
    """Protocol C and two-primaries no are what isn't there: parse() relies on it."""
    alice.set_net("C", False)
    text = alice.run(["drbdsetup", "show", RESOURCE]).stdout
    assert "protocol" not in text and "allow-two-primaries" not in text
    alice.set_net("C", True)
    text = alice.run(["drbdsetup", "show", RESOURCE]).stdout
    assert "protocol" not in text and "allow-two-primaries\tyes;" in text


@pytest.mark.core
def test_a_resource_that_is_not_up_reads_as_none(alice: Host) -> None:
    assert alice.do(events.one, "nosuch") is None
    assert alice.do(show.one, "nosuch") is None
    assert RESOURCE in alice.do(events.snapshot)
    assert RESOURCE in alice.do(show.settings)


def test_exit_statuses_for_a_resource_that_is_not_up(alice: Host) -> None:
    """Each command has its own (drbdsetup.c of drbd-utils, v84: generic_get, missing_ok)."""
    shown = alice.run(["drbdsetup", "show", "nosuch"])
    assert (shown.status, shown.stdout) == (20, "")
    assert "No such device" in shown.stderr
    followed = alice.run(["drbdsetup", "events2", "--now", "--statistics", "nosuch"])
    assert (followed.status, followed.stdout) == (0, "exists -\n")
    assert alice.run(["drbdsetup", "down", "nosuch"]).status == 0


def test_a_minor_that_is_not_there_is_10(alice: Host) -> None:
    for command in ("primary", "secondary", "outdate", "resume-io", "show-gi"):
        result = alice.run(["drbdsetup", command, "4711"])
        assert result.status == 10, command
        assert result.stderr.startswith("4711: Failure: (127) Device minor not allocated"), command


def test_generations_of_a_pair_in_sync(alice: Host, bob: Host) -> None:
    before = alice.generations()
    assert before[:2] == bob.generations()[:2]
    assert before[0] and before[1] == 0
    alice.promote()
    assert alice.generations() == before
    # the lowest bit says Primary, and the product leaves it out
    lines = [
        host.run(["drbdsetup", "show-gi", str(MINOR)]).stdout.split("\nflags")[0] for host in (alice, bob)
    ]
    raw = [
        next(int(line.split(":")[0], 16) for line in text.splitlines() if line.count(":") > 4)
        for text in lines
    ]
    assert raw == [before[0] | 1, before[0]]
    assert alice.do(verbs.generation, MINOR) == before[:2]


def test_no_write_is_listed_while_nothing_is_written(world: World, alice: Host) -> None:
    alice.promote()
    alice.set_net("C", False)
    alice.write(0, 1)
    summary = f"/sys/kernel/debug/drbd/resources/{RESOURCE}/in_flight_summary"
    text = world.until(
        lambda: (text := alice.read_file(summary)) and barrier.oldest_write_ms(text) is None and text,
        "the transfer log to be empty",
    )
    # the heading that the parser finds its columns by
    heading = text[text.index("oldest application requests\n") :].splitlines()[1].split("\t")
    assert [word for word in heading if word in ("n", "device", "rw", "start", "sent", "state")] == [
        "n", "device", "rw", "start", "sent", "state"
    ]  # fmt: skip
