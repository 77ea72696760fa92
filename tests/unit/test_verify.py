"""verify: what the kernel's log says, whose turn it is, one comparison over a kernel that does
as DRBD does, and repair's order of steps on both sides."""

import contextlib
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from xenhelper import alerts, hotplug, insync, intents, log, paths, reconcile, statefile, window
from xenhelper.cli import verify as command
from xenhelper.drbd import bringup, events, proc, show, verbs
from xenhelper.errors import Busy, PeerUnreachable, Refused, UsageError, XenhelperError
from xenhelper.peer import client
from xenhelper.verify import drive, kernel, repair, results, schedule, stop
from xenhelper.xen import domains

MIB = 1 << 20
SIZE = 64 * MIB
CAPTURED = Path(__file__).parent / "captured"


def state(name: str = "web1-xvda", **values: Any) -> events.Resource:
    made = events.Resource(name)
    made.minor, made.size = 1000, SIZE
    well = {
        "role": "Secondary", "disk": "UpToDate", "connection": "Connected", "peer_role": "Secondary",
        "peer_disk": "UpToDate", "replication": "Established",
    }  # fmt: skip
    for key, value in {**well, **values}.items():
        setattr(made, key, value)
    return made


# the kernel's log


def test_what_the_kernel_logged_of_a_comparison_that_found_a_block() -> None:
    lines = (CAPTURED / "kernel-verify-differs.txt").read_text().splitlines()
    said = kernel.parse(lines, 1000)
    assert said == kernel.Said(((10240 * 4096, 4096),), None, True)
    assert kernel.parse(lines, 1001) == kernel.Said()


def test_what_the_kernel_logged_of_one_that_was_stopped() -> None:
    lines = (CAPTURED / "kernel-verify-stopped.txt").read_text().splitlines()
    said = kernel.parse(lines, 1000)
    # the end was moved, and a second one begun that ended after a block: the last word counts
    assert said == kernel.Said((), 42568 * 512, True)


def test_progress_as_the_kernel_printed_it() -> None:
    found = proc.progress((CAPTURED / "proc-drbd-verifying-alice.txt").read_text())[1000]
    assert (found.percent, found.rate, found.left) == (29.5, 2848 * 1024, 17)


def test_ranges_are_joined() -> None:
    found = kernel.merged([(8192, 4096), (0, 4096), (4096, 4096), (8192, 8192), (1 << 30, 4096)])
    assert found == ((0, 16384), (1 << 30, 4096))


# whose turn


@pytest.mark.parametrize(
    ("hour", "hours", "until"),
    [
        (2, (1, 5), 5),
        (5, (1, 5), None),
        (0, (1, 5), None),
        (23, (22, 5), 5),
        (4, (22, 5), 5),
        (12, (22, 5), None),
        (23, (22, 24), 0),
        (12, (3, 3), 12),
    ],
)
def test_hours(hour: int, hours: tuple[int, int], until: int | None) -> None:
    now = datetime(2026, 3, 1, hour, 30)
    end = schedule.open_until(now, hours)
    assert (None if end is None else end.hour) == until
    if end is not None:
        assert 0 < (end - now).total_seconds() <= 86400


def result(name: str = "web1-xvda", **values: Any) -> results.Result:
    given: dict[str, Any] = {
        "resource": name, "vm": "web1", "state": results.CLEAN, "by": "alice", "size": SIZE,
        "since": "2026-03-01T01:07:00Z", "until": "2026-03-01T01:09:00Z", "position": SIZE, "differing": 0,
        "whole_at": "2026-03-01T01:09:00Z",
    }  # fmt: skip
    return results.Result(**{**given, **values})


def test_the_begun_comes_first_then_the_longest_waiting_and_each_by_one_host() -> None:
    names = ["new", "old", "recent", "begun", "guest-there", "idle-there", "apart"]
    records = {name: {"host": "alice", "peer": "bob"} for name in names}
    records["idle-there"] = {"host": "bob", "peer": "alice"}
    there = {name: state(name, role="Primary") for name in names}
    there["guest-there"] = state(role="Secondary", peer_role="Primary")
    there["idle-there"] = state(role="Secondary")
    there["new"] = state(role="Secondary")
    there["apart"] = state(role="Primary", connection="Connecting")
    now = insync.seconds("2026-04-05T01:00:00Z") or 0.0
    past = {
        "old": result("old"),
        "recent": result("recent", whole_at="2026-04-01T00:00:00Z"),
        "begun": result("begun", state=results.PARTIAL, whole_at="2026-04-01T00:00:00Z"),
    }
    assert schedule.due(records, there, past, 30, now) == ["begun", "new", "old"]
    assert schedule.due(records, there, past, 0, now) == []


# results


class Pair:
    """This host (alice), and what it asked bob."""

    def __init__(self) -> None:
        self.now = state(role="Primary", peer_role="Secondary")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.did: list[str] = []
        self.busy = False
        self.dead = False
        self.running: list[domains.Domain] = []
        self.lines: list[str] = []
        self.step: Callable[[], None] = lambda: None
        self.generation = (0xB0, 0)


RECORD = {
    "resource": "web1-xvda", "vm": "web1", "vdev": "xvda", "minor": "1000", "host": "alice", "peer": "bob",
    "volume": "/dev/vg0/web1", "protocol": "A", "size_bytes": str(SIZE),
}  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    made = Pair()
    for name in ("STATE", "RUN", "RESOURCES", "VMS", "INTENTS", "LOCKS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    statefile.write(f"{paths.RESOURCES}/web1-xvda", RECORD)
    monkeypatch.setattr(events, "one", lambda name: made.now)
    monkeypatch.setattr(events, "snapshot", lambda *_: {"web1-xvda": made.now})
    monkeypatch.setattr(log, "event", lambda *_, **__: None)

    def text() -> str:
        link = "Connected" if made.now.replication == "Established" else made.now.replication
        return (
            f"1000: cs:{link} ro:Primary/Secondary ds:UpToDate/UpToDate A r-----\n"
            "\t[=========>..........] verified: 50.0% (32768/65536)K\n"
            "\tfinish: 0:00:09 speed: 3,440 (440) K/sec\n"
        )

    monkeypatch.setattr(proc, "text", text)
    monkeypatch.setattr(domains, "find", lambda vm: made.running)
    monkeypatch.setattr(domains, "users_of", lambda store, name: [])
    monkeypatch.setattr(drive, "EVERY", 0.0)
    monkeypatch.setattr(repair, "Xenstore", lambda: contextlib.nullcontext())

    class Log(kernel.Log):
        def __init__(self) -> None:
            self.lines = made.lines

        def read(self) -> list[str]:
            return self.lines

        def close(self) -> None:
            pass

    monkeypatch.setattr(kernel, "Log", Log)

    def ask(peer: str, verb: str, args: dict[str, Any], timeout: float = 0) -> dict[str, object]:
        made.asked.append((verb, args))
        if made.dead:
            raise PeerUnreachable("bob gave no answer")
        made.did.append(f"bob {args.get('step', verb)}")
        return {"busy": made.busy}

    monkeypatch.setattr(client, "ask", ask)

    def adm(vm: str, *words: str, timeout: float = 0) -> None:
        made.did.append(" ".join(words))
        if words[0] == "connect":
            made.now.connection = "Connected"

    monkeypatch.setattr(bringup, "adm", adm)
    monkeypatch.setattr(verbs, "sync_rate", lambda minor, kib: made.did.append(f"rate {kib}"))
    monkeypatch.setattr(verbs, "generation", lambda minor: made.generation)
    monkeypatch.setattr(verbs, "holder", lambda minor: "dd (pid 7)")

    def verify(minor: int, start: int, stop_at: int) -> None:
        made.did.append(f"verify {start} {stop_at}")
        if made.now.replication == "VerifyS":  # its end was moved behind it
            made.now.replication = "Established"
            made.lines.append(
                f"drbd web1-xvda/0 drbd1000: Online Verify reached sector {int(SIZE * 0.5) // 512}"
            )
        else:
            made.now.replication, made.now.done_percent = "VerifyS", 50.0
            made.step()

    monkeypatch.setattr(verbs, "verify", verify)

    def disconnect(local: str, remote: str) -> None:
        made.did.append("disconnect")
        made.now.connection = "StandAlone"

    monkeypatch.setattr(verbs, "disconnect", disconnect)

    def outdate(minor: int) -> None:
        made.did.append("outdate")
        made.now.disk = "Outdated"

    monkeypatch.setattr(verbs, "outdate", outdate)

    settings = show.Settings("web1-xvda")
    settings.local, settings.remote = "ipv4:10.99.0.1:7800", "ipv4:10.99.0.2:7800"
    monkeypatch.setattr(show, "one", lambda name: settings)
    return made


def test_a_result_is_kept_on_both_hosts_and_read_back(pair: Pair) -> None:
    many = tuple((number * 8192, 4096) for number in range(500))
    found = result(state=results.DIFFERS, differing=500 * 4096, ranges=many)
    results.share(found, "bob")
    read = results.read("web1-xvda")
    assert read is not None and read.ranges == many[: results.MAX_RANGES] and read.more == 300
    assert (read.state, read.differing, read.whole_at) == ("differs", 500 * 4096, found.whole_at)
    verb, args = pair.asked[-1]
    assert verb == "verify-noted"
    assert "and 495 more" in results.tell(read)
    # bob's half, for a resource that it shares with the asker only
    os.unlink(results.path("web1-xvda"))
    assert results.serve_noted("bob", args) == {} and results.read("web1-xvda") == read
    for peer, wrong in (
        ("carol", {}),
        ("bob", {"since": "now"}),
        ("bob", {"size": "x"}),
        ("bob", {"state": ""}),
    ):
        with pytest.raises(Refused):
            results.serve_noted(peer, {"result": {**args["result"], **wrong}})


# one comparison


def test_to_the_end_limited_in_speed_and_full_speed_again(pair: Pair) -> None:
    def finish() -> None:
        pair.lines += [
            "drbd web1-xvda/0 drbd1000: Out of sync: start=40000, size=8 (sectors)",
            "drbd web1-xvda/0 drbd1000: Online verify  done (total 2 sec; paused 0 sec; 30000 K/sec)",
        ]
        pair.now.replication = "Established"

    pair.step = finish
    found = drive.run(RECORD, drive.Limits(10 * MIB), lambda at, size: None, resume=False)
    assert pair.did == [
        "bob busy",
        "rate 10240",
        f"verify 0 {SIZE // 512}",
        "disk-options web1-xvda",
        "bob verify-noted",
    ]
    assert (found.state, found.ranges, found.position) == ("differs", ((40000 * 512, 4096),), SIZE)
    assert found.whole_at == found.until != ""
    told = alerts.store.read("verify", "web1-xvda")
    assert told is not None and told["state"] == "raised" and "at byte 20480000+4096" in told["what"]
    results.write(result(state=results.REPAIRED, differing=4096))
    assert not alerts.is_active("verify", "web1-xvda"), "repaired, and told so"
    results.write(found)
    assert results.read("web1-xvda") == found
    assert statefile.names(stop.marks()) == []


def test_time_is_up_and_another_night_it_goes_on_there(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = drive.Limits(10 * MIB, until=0.0)
    monkeypatch.setattr(
        drive.Limits, "over", lambda self: pair.now.replication == "VerifyS" or bool(pair.lines)
    )
    found = drive.run(RECORD, limits, lambda at, size: None, resume=True)
    assert (found.state, found.position) == ("partial", SIZE // 2 - (8 << 20))
    assert found.whole_at == "" and "verify 0 1" in pair.did
    assert "disk-options web1-xvda" in pair.did, "full speed for resyncs again"
    # the next night
    pair.lines.clear()
    monkeypatch.setattr(drive.Limits, "over", lambda self: False)

    def finish() -> None:
        pair.lines.append(
            "drbd web1-xvda/0 drbd1000: Online verify  done (total 2 sec; paused 0 sec; 3 K/sec)"
        )
        pair.now.replication = "Established"

    pair.did.clear()
    pair.step = finish
    found = drive.run(RECORD, drive.Limits(10 * MIB), lambda at, size: None, resume=True)
    assert f"verify {(SIZE // 2 - (8 << 20)) // 512} {SIZE // 512}" in pair.did
    assert (found.state, found.position) == ("clean", SIZE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"connection": "Connecting"}, "is Connecting"),
        ({"peer_disk": "Inconsistent", "replication": "SyncSource"}, "UpToDate"),
        ({"disk": "Outdated"}, "UpToDate"),
        ({"replication": "SyncSource"}, "syncs"),
        ({"replication": "VerifyT"}, "already"),
    ],
)
def test_what_is_not_well_is_not_compared(pair: Pair, change: dict[str, Any], words: str) -> None:
    for key, value in change.items():
        setattr(pair.now, key, value)
    limits = drive.Limits(MIB, patient=False)
    with pytest.raises(Refused, match=words):
        drive.run(RECORD, limits, lambda at, size: None, resume=False)
    assert not any(line.startswith(("verify", "rate")) for line in pair.did)


def test_an_open_change_here_or_there_is_waited_for_and_not_compared(pair: Pair) -> None:
    limits = drive.Limits(MIB, patient=False)
    intents.write("window", "web1")
    with pytest.raises(Busy, match="window"):
        drive.run(RECORD, limits, lambda at, size: None, resume=False)
    intents.remove("window", "web1")
    pair.busy = True
    with pytest.raises(Busy, match="other host"):
        drive.run(RECORD, limits, lambda at, size: None, resume=False)
    pair.busy, pair.dead = False, True
    with pytest.raises(Refused, match="can't be asked"):
        drive.run(RECORD, limits, lambda at, size: None, resume=False)
    assert not any(line.startswith(("verify", "rate")) for line in pair.did)


def test_one_at_a_time_and_between_two_hosts_the_lower_name_goes_on() -> None:
    records = {"web1-xvda": {"minor": "1000"}, "web2-xvda": {"minor": "1001", "host": "bob", "peer": "alice"}}

    def states(mine: str, theirs: str) -> dict[int, proc.State]:
        both = {1000: mine, 1001: theirs}
        return {
            minor: proc.State(link, "Secondary/Secondary", "UpToDate/UpToDate")
            for minor, link in both.items()
        }

    running = states("VerifyS", "VerifyT")
    assert "alice compares web2-xvda" in drive.elsewhere("web1-xvda", running, records)
    records["web2-xvda"].update(host="alice", peer="bob")
    assert drive.elsewhere("web1-xvda", running, records) == "", "alice goes on, bob gives way"
    begun = states("Connected", "VerifyT")
    assert "bob compares" in drive.elsewhere("web1-xvda", begun, records), "but begins none beside it"
    assert drive.elsewhere("web1-xvda", states("Connected", "SyncTarget"), records) == ""


def test_one_process_of_a_host_compares(pair: Pair) -> None:
    held = stop.lock()
    with pytest.raises(Busy):
        stop.lock()
    os.close(held)


def test_a_migration_stops_it_and_refuses_known_differences(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    window_ = window.Window("web1", ["web1-xvda"], "bob", "alice", "")
    monkeypatch.setattr(verbs, "net_options", lambda *_: pair.did.append("protocol C"))
    monkeypatch.setattr(window.barrier, "drain", lambda *_: None)
    pair.now.replication = "VerifyS"
    window_._synchronous("web1-xvda")
    assert pair.did == ["verify 0 1", "protocol C"]
    pair.did.clear()
    pair.now.replication = "VerifyT"
    window_._synchronous("web1-xvda")
    assert pair.did == ["bob verify-stop", "protocol C"]
    pair.now.replication, pair.now.out_of_sync = "Established", 4096
    with pytest.raises(Refused, match="--repair --good alice"):
        window_._synchronous("web1-xvda")


def test_what_a_killed_verify_left_is_tidied_by_the_reconciler(pair: Pair) -> None:
    statefile.write(f"{stop.marks()}/web1-xvda", {"pid": "1"})
    pair.now.replication = "VerifyS"
    held = stop.lock()
    stop.tidy()
    assert pair.did == [], "it lives"
    os.close(held)
    stop.tidy()
    assert pair.did == ["verify 0 1", "disk-options web1-xvda"] and statefile.names(stop.marks()) == []


# repair


def differing(pair: Pair) -> None:
    pair.now.out_of_sync = 4096
    results.write(result(state=results.DIFFERS, differing=4096, ranges=((40960, 4096),)))


def test_good_here_where_the_guest_runs(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    differing(pair)
    pair.running = [domains.Domain(1, "web1", "r-----", "")]
    original = client.ask

    def ask(peer: str, verb: str, args: dict[str, Any], timeout: float = 0) -> dict[str, object]:
        answer = original(peer, verb, args, timeout)
        if args.get("step") == "apart":
            pair.now.connection, pair.generation = "Connecting", (0xC0, 0xB0)  # a Primary begins its own
        if args.get("step") == "join":
            pair.now.connection, pair.now.replication, pair.now.out_of_sync = "Connected", "Established", 0
        return answer

    monkeypatch.setattr(client, "ask", ask)
    said: list[str] = []
    assert repair.run("web1", [RECORD], "alice", False, said.append)
    steps = ["bob look", "bob apart", "disconnect", "connect web1-xvda", "bob join", "bob verify-noted"]
    assert pair.did == steps, "a second generation would cost a full sync"
    assert "4096 bytes" in said[0]
    after = results.read("web1-xvda")
    assert after is not None and after.state == results.REPAIRED and not after.differs


def test_good_there_and_this_side_leaves_and_is_outdated_before_the_other_begins(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.now.role, pair.now.peer_role = "Secondary", "Primary"
    differing(pair)
    original = client.ask

    def ask(peer: str, verb: str, args: dict[str, Any], timeout: float = 0) -> dict[str, object]:
        if args.get("step") == "source":
            assert (pair.now.connection, pair.now.disk) == ("StandAlone", "Outdated")
        return original(peer, verb, args, timeout)

    def adm(vm: str, *words: str, timeout: float = 0) -> None:
        pair.did.append(" ".join(words))
        pair.now.connection, pair.now.disk, pair.now.replication = "Connected", "UpToDate", "SyncTarget"
        pair.now.out_of_sync = 0

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(bringup, "adm", adm)
    assert repair.run("web1", [RECORD], "bob", False, lambda line: None)
    assert pair.did == [
        "bob look",
        "disconnect",
        "outdate",
        "bob source",
        "connect web1-xvda",
        "bob verify-noted",
    ]


def test_the_source_is_never_left_to_chance(pair: Pair) -> None:
    """Without a Primary both copies are of one generation, and DRBD would copy nothing."""
    pair.now.role = "Secondary"
    with pytest.raises(Refused, match="runs on alice"):
        repair.take("web1-xvda", "look", "alice")
    with pytest.raises(Refused, match="runs on bob"):
        repair.take("web1-xvda", "look", "bob")
    pair.now.role = "Primary"
    pair.now.connection = "Connecting"
    with pytest.raises(XenhelperError, match="no generation of its own"):
        repair.take("web1-xvda", "source", "alice")
    assert pair.did == ["disconnect", "connect web1-xvda"], "connected again, nothing changed"


def test_a_guest_on_the_bad_side_is_never_changed_beneath(pair: Pair) -> None:
    differing(pair)
    pair.running = [domains.Domain(1, "web1", "r-----", "")]
    with pytest.raises(Refused, match="web1 runs on alice.*--good alice"):
        repair.run("web1", [RECORD], "bob", False, lambda line: None)
    pair.running = []
    with pytest.raises(Refused, match="held by dd"):
        repair.run("web1", [RECORD], "bob", False, lambda line: None)
    assert "disconnect" not in pair.did and "bob apart" not in pair.did


def test_repair_refuses_what_isnt_safe(pair: Pair) -> None:
    with pytest.raises(UsageError):
        repair.run("web1", [RECORD], "carol", False, lambda line: None)
    assert not repair.run("web1", [RECORD], "bob", False, lambda line: None), "nothing is known to differ"
    differing(pair)
    intents.write("window", "web1")
    with pytest.raises(Refused, match="window"):
        repair.run("web1", [RECORD], "alice", False, lambda line: None)
    intents.remove("window", "web1")
    pair.did.clear()
    said: list[str] = []
    assert repair.run("web1", [RECORD], "alice", True, said.append)
    assert pair.did == ["bob look"] and "would be copied from alice to bob" in said[0]
    for args in ({"step": "apart", "good": "carol"}, {"step": "rm", "good": "bob"}):
        with pytest.raises(Refused):
            repair.serve("bob", {"resource": "web1-xvda", **args})
    with pytest.raises(Refused):
        repair.serve("carol", {"resource": "web1-xvda", "step": "look", "good": "alice"})


def test_a_failed_outdate_connects_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.now.role, pair.now.peer_role = "Secondary", "Primary"
    monkeypatch.setattr(verbs, "outdate", lambda minor: None)
    with pytest.raises(XenhelperError, match="isn't outdated"):
        repair.take("web1-xvda", "apart", "bob")
    assert pair.did == ["disconnect", "connect web1-xvda"]


def test_no_block_script_starts_a_vm_between_leaving_and_being_outdated(pair: Pair) -> None:
    pair.now.role, pair.now.peer_role = "Secondary", "Primary"
    held = hotplug.lock("web1-xvda", 1.0)
    begin = time.monotonic()
    try:
        with pytest.raises(Refused, match="block script"):
            _short(pair)
    finally:
        os.close(held)
    assert pair.did == [] and time.monotonic() - begin < 60


def _short(pair: Pair) -> None:
    original = hotplug.lock
    hotplug.lock = lambda name, seconds: original(name, 0.1)
    try:
        repair.take("web1-xvda", "apart", "bob")
    finally:
        hotplug.lock = original


def test_the_reconciler_leaves_a_repair_its_minute(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.now.role, pair.now.peer_role = "Secondary", "Primary"
    repair.take("web1-xvda", "apart", "bob")
    assert pair.did == ["disconnect", "outdate"]
    monkeypatch.setattr(reconcile.splitbrain, "check", lambda record: False)
    assert reconcile._connect(RECORD, False) == "" and "adjust web1-xvda" not in pair.did
    # the repair was killed there
    monkeypatch.setattr(stop, "APART", 0.0)
    reconcile._connect(RECORD, False)
    assert pair.did[-1] == "adjust web1-xvda"
    monkeypatch.undo()


# the command


def test_repair_needs_a_side_and_a_vm() -> None:
    import argparse

    for words in (["--repair"], ["--good", "alice", "web1"], ["--repair", "--good", "alice"]):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        with pytest.raises(UsageError):
            command.run(parser.parse_args(words))


def test_the_reconciler_looks_only_where_there_is_a_mark(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(stop, "tidy", lambda: called.append("tidy"))
    monkeypatch.setattr(reconcile, "_resources", lambda: [])
    reconcile.reconcile()
    assert called == []
    os.makedirs(stop.marks())
    reconcile.reconcile()
    assert called == ["tidy"]
