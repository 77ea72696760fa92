"""Split brain: told by generations, marked once, never reconnected; recover's order of steps."""

import os
from pathlib import Path
from typing import Any

import pytest

from xenhelper import (
    alerts,
    differing,
    drbdevent,
    insync,
    intents,
    log,
    paths,
    reconcile,
    recover,
    splitbrain,
    statefile,
    steady,
)
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import PeerUnreachable, Refused, UsageError
from xenhelper.peer import client
from xenhelper.volumes import Group, Volume
from xenhelper.xen import domains

A, B, C, D, OLD = 0xA0, 0xB0, 0xC0, 0xD0, 0x10


@pytest.mark.parametrize(
    ("mine", "theirs", "how"),
    [
        ((A, 0, OLD, 0), (A, 0, OLD, 0), splitbrain.SAME),
        ((A | 1, 0, OLD, 0), (A, 0, OLD, 0), splitbrain.SAME),
        # I went on alone from A, the peer is still there
        ((B, A, OLD, 0), (A, 0, OLD, 0), splitbrain.NEWER),
        ((A, 0, OLD, 0), (B | 1, A | 1, OLD, 0), splitbrain.OLDER),
        # the peer's is two generations behind
        ((C, 0, B, A), (A, 0, OLD, 0), splitbrain.NEWER),
        # both went on from A
        ((B, A, OLD, 0), (C, A, OLD, 0), splitbrain.SPLIT),
        ((B, 0, A, OLD), (C, A, OLD, 0), splitbrain.SPLIT),
        ((B, 0, A, OLD), (C, 0, D, A), splitbrain.SPLIT),
        # nothing in common; zeros and "just created" are nothing
        ((B, 0, 4, 0), (C, 0, 4, 0), splitbrain.UNRELATED),
        # a copy that was never synced
        ((4, 0, 0, 0), (A, 0, 0, 0), splitbrain.OLDER),
        ((A, 0, 0, 0), (4, 0, 0, 0), splitbrain.NEWER),
    ],
)
def test_generations(mine: tuple[int, ...], theirs: tuple[int, ...], how: str) -> None:
    assert splitbrain.compare(mine, theirs) == how


def state(name: str = "web1-xvda", **values: Any) -> events.Resource:
    made = events.Resource(name)
    made.minor = 1000
    for key, value in {"role": "Secondary", "disk": "UpToDate", **values}.items():
        setattr(made, key, value)
    return made


class Host:
    """One host with a kernel of one resource, and a peer that answers from a table."""

    def __init__(self) -> None:
        self.now: events.Resource | None = state()
        self.uuids = (B, A, OLD, 0)
        self.peer: dict[str, object] | None = None
        self.asked: list[str] = []
        self.adm: list[tuple[str, ...]] = []
        self.logged: list[str] = []
        self.running: list[domains.Domain] = []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    for name in ("STATE", "RUN", "RESOURCES", "VMS", "INTENTS", "LOCKS", "PERMITS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    statefile.write(
        f"{paths.RESOURCES}/web1-xvda",
        {
            "resource": "web1-xvda", "vm": "web1", "minor": "1000", "volume": "/dev/vg0/web1",
            "host": "alice", "peer": "bob", "protocol": "A",
        },
    )  # fmt: skip
    monkeypatch.setattr(events, "one", lambda name: made.now)
    monkeypatch.setattr(events, "snapshot", lambda *_: {"web1-xvda": made.now} if made.now else {})
    monkeypatch.setattr(verbs, "uuids", lambda minor: made.uuids)
    monkeypatch.setattr(domains, "find", lambda vm: made.running)
    monkeypatch.setattr(log, "event", lambda kind, text, *_, **__: made.logged.append(f"{kind}: {text}"))

    def ask(peer: str, verb: str, args: dict[str, object], timeout: float = 0) -> dict[str, object]:
        made.asked.append(verb)
        if made.peer is None:
            raise PeerUnreachable("bob gave no answer")
        if verb == "recover-connect":
            assert made.now is not None
            made.now.connection = "Connected"
        return made.peer if verb == "split-story" else {}

    monkeypatch.setattr(client, "ask", ask)

    def adm(vm: str, *words: str, timeout: float = 0) -> None:
        made.adm.append(words)

    monkeypatch.setattr(bringup, "adm", adm)
    return made


def theirs(*uuids: int, changed: int = 4096) -> dict[str, object]:
    return {
        "host": "bob", "up": True, "connection": "StandAlone", "role": "Primary", "disk": "UpToDate",
        "changed_bytes": changed, "domains": ["web1"], "uuids": [f"{value:016x}" for value in uuids],
    }  # fmt: skip


def record() -> dict[str, str]:
    found = statefile.read(f"{paths.RESOURCES}/web1-xvda")
    assert found is not None
    return found


def test_the_reconciler_leaves_a_split_brain_alone_and_says_so_once(host: Host) -> None:
    host.now = state(out_of_sync=8192)
    host.peer = theirs(C, A, OLD, 0)
    for _ in range(3):
        line = reconcile._connect(record(), False)
        assert "recover web1 --discard HOST" in line
    assert host.adm == []
    assert len([line for line in host.logged if line.startswith("split-brain")]) == 1
    host.peer = None  # and not either when nobody answers later, or after a reboot
    assert "split brain" in reconcile._connect(record(), False)
    assert host.adm == []


def test_a_stand_alone_without_split_brain_is_connected_again(host: Host) -> None:
    for answer in (theirs(A, 0, OLD, 0), theirs(C, A, OLD, 0, changed=0), None):
        host.adm.clear()
        host.now = state(out_of_sync=8192)
        host.peer = answer
        assert reconcile._connect(record(), False) == ""
        assert host.adm == [("adjust", "web1-xvda")]


@pytest.mark.parametrize(
    ("mine", "other", "ends"),
    [
        (("Secondary", 0), ("Primary", 4096), True),
        (("Primary", 4096), ("Secondary", 0), True),
        (("Secondary", 0), ("Secondary", 4096), True),
        (("Secondary", 4096), ("Secondary", 0), True),
        # consensus: the one that wrote nothing is in use
        (("Primary", 0), ("Secondary", 4096), False),
        (("Secondary", 4096), ("Secondary", 4096), False),
        (("Secondary", 4096), ("Primary", 4096), False),
        # disconnect, until one of them steps down
        (("Primary", 0), ("Primary", 4096), False),
        (("Secondary", 0), ("Unknown", 4096), False),
        (("Secondary", 0), (None, None), False),
    ],
)
def test_which_split_brain_drbd_ends(mine: tuple[str, int], other: tuple[object, object], ends: bool) -> None:
    one = {"role": mine[0], "changed_bytes": mine[1]}
    two = {"role": other[0], "changed_bytes": other[1]}
    assert splitbrain.ends_itself(one, two) == ends
    assert splitbrain.ends_itself(two, one) == ends


def test_a_marked_one_that_drbd_can_end_by_now_is_connected_and_stays_marked_until_then(host: Host) -> None:
    splitbrain.mark("web1-xvda", "web1", "DRBD, when both met again")
    host.now = state(out_of_sync=0, role="Primary")
    host.peer = theirs(C, A, OLD, 0)
    assert "recover" in reconcile._connect(record(), False), "both are Primary"
    assert host.adm == []
    host.now = state(out_of_sync=0)
    assert reconcile._connect(record(), False) == ""
    assert host.adm == [("adjust", "web1-xvda")]
    assert splitbrain.marked("web1-xvda") is not None
    host.now = state(connection="Connected", peer_disk="UpToDate")
    assert reconcile._connect(record(), False) == ""
    assert splitbrain.marked("web1-xvda") is None
    # unrelated data: DRBD would refuse, again and again
    splitbrain.mark("web1-xvda", "web1", "DRBD, when both met again")
    host.now = state(out_of_sync=0)
    host.peer = theirs(C, 0, D, 0)
    host.uuids = (B, 0, 4, 0)
    host.adm.clear()
    assert "recover" in reconcile._connect(record(), False) and host.adm == []


def test_a_dry_run_marks_nothing(host: Host) -> None:
    host.peer = theirs(C, A, OLD, 0)
    reconcile._connect(record(), True)
    assert splitbrain.marked("web1-xvda") is None and host.adm == []


def test_the_mark_goes_once_both_are_connected(host: Host) -> None:
    splitbrain.mark("web1-xvda", "web1", "test")
    host.now = state(connection="Connected", peer_disk="Inconsistent")
    assert reconcile._connect(record(), False) == ""
    assert splitbrain.marked("web1-xvda") is None


def test_the_handler_marks_only_what_is_ours(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRBD_RESOURCE", "foreign")
    assert drbdevent.main(["drbd-event", "split-brain"]) == 0
    assert splitbrain.marked("foreign") is None
    monkeypatch.setenv("DRBD_RESOURCE", "web1-xvda")
    assert drbdevent.main(["drbd-event", "split-brain"]) == 0
    assert splitbrain.marked("web1-xvda") is not None
    monkeypatch.setenv("DRBD_RESOURCE", "../x")
    assert drbdevent.main(["drbd-event", "split-brain"]) == 2


@pytest.mark.parametrize(
    ("kind", "alert"),
    [
        ("local-io-error", "disk"), ("out-of-sync", "out-of-sync"), ("pri-lost", "handler"),
        ("pri-lost-after-sb", "handler"), ("pri-on-incon-degr", "handler"), ("split-brain", "split-brain"),
    ],
)  # fmt: skip
def test_each_handler_raises_its_alert(
    host: Host, monkeypatch: pytest.MonkeyPatch, kind: str, alert: str
) -> None:
    monkeypatch.setenv("DRBD_RESOURCE", "web1-xvda")
    monkeypatch.setattr(drbdevent, "_detached", lambda: False)
    monkeypatch.setattr(drbdevent, "synchronous", lambda *_: None)
    monkeypatch.setattr(drbdevent.time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "_exit", lambda _: None)
    for _ in range(2):
        drbdevent.main(["drbd-event", kind])
    (record,) = alerts.active()
    assert (record["kind"], record["key"], record["vm"]) == (alert, "web1-xvda", "web1")
    assert "web1-xvda" in record["what"] and "`" in record["do"] and record["seq"] == "1"
    assert alert == "out-of-sync" or record["severity"] == "critical"


def test_what_a_verify_has_noted_is_told_with_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRBD_RESOURCE", "web1-xvda")
    monkeypatch.setattr(drbdevent, "_detached", lambda: False)
    monkeypatch.setattr(os, "_exit", lambda _: None)
    now = insync.seconds("2026-11-25T22:00:10Z") or 0.0
    monkeypatch.setattr(drbdevent.time, "time", lambda: now)
    record = {
        "until": "2026-11-25T22:00:00Z",
        "ranges": ",".join(f"{n * 4096}+4096" for n in range(7)),
        "more": "2",
    }

    def sleep(seconds: float) -> None:  # by then it is noted
        statefile.write(f"{paths.STATE}/verify/web1-xvda", record)

    monkeypatch.setattr(drbdevent.time, "sleep", sleep)
    drbdevent.main(["drbd-event", "out-of-sync"])
    (alert,) = alerts.active()
    assert alert["what"].endswith(
        "copies, at byte 0+4096, 4096+4096, 8192+4096, 12288+4096, 16384+4096 and 4 more"
    )
    assert differing.where("web1-xvda", now + 3700) == differing.where("other", now) == ""


def test_the_handler_returns_before_the_alert_is_on_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRBD_RESOURCE", "web1-xvda")
    monkeypatch.setattr(drbdevent, "_detached", lambda: True)
    assert drbdevent.main(["drbd-event", "local-io-error"]) == 0
    assert alerts.active() == [] and any("fails" in text for text in host.logged)


def test_a_primary_without_a_disk_writes_synchronously() -> None:
    protocol = steady.protocol
    well = {"connection": "Connected", "role": "Primary", "peer_role": "Secondary", "peer_disk": "UpToDate"}
    assert protocol({"protocol": "A"}, state(**well)) == "A"
    for disk in ("Diskless", "Failed", "Inconsistent", "Attaching"):
        assert protocol({"protocol": "A"}, state(**{**well, "disk": disk})) == "C"
        # the other host sees the same, and doesn't switch it back
        seen = {**well, "role": "Secondary", "peer_role": "Primary", "peer_disk": disk}
        assert protocol({"protocol": "A"}, state(**seen)) == "C"
    # a Secondary without a disk, or a first sync, is no reason
    assert protocol({"protocol": "A"}, state(**{**well, "peer_disk": "Diskless"})) == "A"
    assert protocol({}, state(role="Primary", disk="Diskless")) == "A"


def give_up(host: Host, **more: Any) -> list[str]:
    said: list[str] = []
    recover.run("web1", more.pop("discard", "alice"), more.pop("dry_run", False), said.append, lambda _: True)
    return said


class Store:
    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def split(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    host.now = state(out_of_sync=8192)
    host.peer = theirs(C, A, OLD, 0)
    monkeypatch.setattr(recover, "Xenstore", Store)
    monkeypatch.setattr(domains, "users_of", lambda store, name: [])
    monkeypatch.setattr(recover, "snapshot", lambda name, since: f"{name}: kept")
    splitbrain.mark("web1-xvda", "web1", "test")
    return host


def test_the_named_side_only_is_given_up(split: Host) -> None:
    said = give_up(split)
    assert split.adm == [("connect", "--discard-my-data", "web1-xvda")]
    assert split.asked[-2:] == ["recover-connect", "recover-end"]
    assert any("kept" in line for line in said)
    assert splitbrain.marked("web1-xvda") is None and intents.read("recover", "web1") is None


def test_the_other_side_gives_up_there(split: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object) -> None:
        assert intents.read("recover", "web1") is not None

    monkeypatch.setattr(recover, "_wait", wait)
    give_up(split, discard="bob")
    assert split.asked.count("recover-discard") == 2  # a look first
    assert split.adm == [("connect", "web1-xvda")]


def test_refused_while_it_is_in_use(split: Host) -> None:
    split.running = [domains.Domain(3, "web1", "r-----", "u")]
    with pytest.raises(Refused, match="web1 runs on"):
        give_up(split)
    assert split.adm == [] and intents.read("recover", "web1") is None


def test_nothing_happens_in_a_dry_run_without_a_yes_or_without_a_split_brain(split: Host) -> None:
    give_up(split, dry_run=True)
    with pytest.raises(Refused, match="nothing was done"):
        recover.run("web1", "alice", False, lambda _: None, lambda _: False)
    with pytest.raises(UsageError, match="not on carol"):
        give_up(split, discard="carol")
    split.peer = theirs(A, 0, OLD, 0)
    with pytest.raises(Refused, match="no split brain"):
        give_up(split)
    split.peer = theirs(D, 0, 0, 0)
    with pytest.raises(Refused, match="nothing in common"):
        give_up(split)
    split.peer = None
    with pytest.raises(Refused, match="bob must answer"):
        give_up(split)
    assert split.adm == [] and intents.read("recover", "web1") is None


def test_an_interrupted_one_is_finished_by_the_same_command_only(
    split: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise PeerUnreachable("cut")

    monkeypatch.setattr(recover, "_wait", cut)
    with pytest.raises(PeerUnreachable):
        give_up(split)
    assert "--discard alice` again" in reconcile._connect(record(), False) or split.now is not None
    with pytest.raises(Refused, match="can't be turned round"):
        give_up(split, discard="bob")
    monkeypatch.setattr(recover, "_wait", lambda *_: None)
    assert split.now is not None
    split.now.connection = "StandAlone"
    give_up(split)
    assert intents.read("recover", "web1") is None


def test_a_snapshot_only_where_there_is_room(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    origin = Volume("vg0", "web1", 10 << 30)
    free = [20 << 30]
    monkeypatch.setattr(
        recover.volumes, "facts", lambda: ([origin], {"vg0": Group("vg0", 40 << 30, free[0], 4 << 20)})
    )
    monkeypatch.setattr(
        recover.volumes, "snapshot", lambda volume, name, size, tag: made.append((name, size))
    )
    host.now = state(out_of_sync=1 << 30)
    assert "kept as /dev/vg0/web1_discarded_" in recover.snapshot("web1-xvda", "2026")
    assert made[0][1] == (10 << 30) + (4 << 20)
    free[0] = 3 << 30
    recover.snapshot("web1-xvda", "2026")
    assert made[1][1] == 3 << 30
    free[0] = 2 << 30
    assert "no snapshot" in recover.snapshot("web1-xvda", "2026") and len(made) == 2


def test_a_failed_disk_switches_to_protocol_c_but_not_under_a_migration(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[tuple[str, str]] = []
    monkeypatch.setattr(steady, "close", lambda name, protocol: closed.append((name, protocol)))
    monkeypatch.setattr(drbdevent.time, "sleep", lambda _: setattr(host.now, "disk", "Diskless"))
    host.now = state(
        connection="Connected", role="Primary", peer_role="Secondary", peer_disk="UpToDate", disk="UpToDate"
    )
    drbdevent.synchronous("web1-xvda", record(), 5.0)  # it sees the disk go first
    assert closed == [("web1-xvda", "C")]
    fd = intents.lock("web1")
    try:
        with pytest.raises(Refused):
            drbdevent.synchronous("web1-xvda", record(), 0.2)
    finally:
        os.close(fd)
    assert len(closed) == 1
