"""When the watcher calls the reconciler before its timer."""

from xenhelper.drbd.proc import State
from xenhelper.watch.rounds import APART, CONNECTION_SETTLES, DOMAINS_SETTLE, Rounds

RECORDS = {"web1-xvda": {"minor": "1000"}}


def at(connection: str) -> dict[int, State]:
    return {1000: State(connection, "Primary/Secondary", "UpToDate/UpToDate")} if connection else {}


def calls(story: list[tuple[float, str, bool, bool]]) -> list[float]:
    """When a round is called for, of (time, connection, domains changed, intent open)."""
    rounds = Rounds()
    return [
        now
        for now, connection, changed, is_open in story
        if rounds.look(at(connection), RECORDS, changed, is_open, now)
    ]


def test_hosts_that_meet_again_once_it_has_settled() -> None:
    story = [(0.0, "Connected"), (4.0, "WFConnection"), (8.0, "SyncSource"), (10.0, "SyncSource")]
    story += [(8.0 + CONNECTION_SETTLES, "SyncSource"), (15.0, "Connected"), (60.0, "Connected")]
    assert calls([(now, link, False, False) for now, link in story]) == [8.0 + CONNECTION_SETTLES]


def test_a_connection_that_is_given_up_or_taken_down() -> None:
    for link in ("StandAlone", ""):
        assert calls([(0.0, "Connected", False, False), (4.0, link, False, False), (8.0, link, False, False)])


def test_neither_the_first_look_nor_a_loss_nor_a_steady_state_calls() -> None:
    assert calls([(float(now), "Connected", False, False) for now in range(60)]) == []
    lost = [(0.0, "Connected"), (4.0, "WFConnection"), (60.0, "WFConnection")]
    assert calls([(now, link, False, False) for now, link in lost]) == []


def test_domains_that_change_while_a_change_is_open() -> None:
    quiet = [(0.0, "Connected", True, False), (20.0, "Connected", False, False)]
    assert calls(quiet) == []
    busy = [(0.0, "Connected", True, True), (6.0, "Connected", True, True), (12.0, "Connected", False, False)]
    assert calls([*busy, (16.0, "Connected", False, False)]) == [6.0 + DOMAINS_SETTLE]


def test_a_link_that_flaps_calls_no_more_often_than_that() -> None:
    links = ["Connected", "WFConnection"] * 60
    found = calls([(float(now), link, False, False) for now, link in enumerate(links)])
    assert len(found) > 2
    assert min(b - a for a, b in zip(found, found[1:], strict=False)) >= APART
