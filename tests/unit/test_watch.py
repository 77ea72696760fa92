"""The watcher: which alerts ought to be raised, how long things must last, what wakes it."""

import os
import select
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.xenstored import FakeXenstored
from xenhelper import alerts, config, insync, leftover, log, paths, permits, run, statefile
from xenhelper.alerts import bell, store
from xenhelper.alertsettings import Alerts
from xenhelper.beneath import Backend, Finding
from xenhelper.drbd import proc
from xenhelper.drbd.proc import State
from xenhelper.watch import bells, daemon, judge, look, notify, tell
from xenhelper.watch.world import World

CAPTURED = Path(__file__).parent / "captured"
RECORDS = {
    "web1-xvda": {
        "resource": "web1-xvda", "vm": "web1", "vdev": "xvda", "minor": "1000", "peer": "bob",
        "volume": "/dev/vg0/web1",
    },
    "web1-xvdb": {
        "resource": "web1-xvdb", "vm": "web1", "vdev": "xvdb", "minor": "1001", "peer": "bob",
        "volume": "/dev/vg0/web1-swap",
    },
}  # fmt: skip
CONFIG = config.Config(
    "alice", "192.168.1.1", "10.99.0.1", {}, ("vg0",), ("vg0/scratch-*",), ("test-*",), ("san/*",),
    (7800, 7999), (1000, 1999), "A", alerts=Alerts(stale_minutes=30),
)  # fmt: skip
NOW = 1_800_000_000.0
OURS = "/etc/xen/scripts/block-xenhelper"
DISKS = tuple(
    Backend("7", vdev[-1], "web1", "93:3e8", f"web1-{vdev}", OURS, vdev, state="4")
    for vdev in ("xvda", "xvdb")
)


def captured(name: str) -> dict[int, State]:
    return proc.parse((CAPTURED / f"proc-drbd-{name}.txt").read_text())[1]


def state(connection: str = "Connected", disks: str = "UpToDate/UpToDate", roles: str = "Primary/Secondary",
          out_of_sync: int = 0) -> State:  # fmt: skip
    made = State(connection, roles, disks)
    made.out_of_sync = out_of_sync
    return made


def world(first: State | None = None, **changes: Any) -> World:
    """A healthy pair with web1 here, its first disk as given."""
    states = {1000: first or state(), 1001: state()}
    made = World(NOW, states, RECORDS, backends=DISKS, domains=("Domain-0", "web1"))
    return replace(made, **changes)


def wanted(seen: World, settings: config.Config | None = CONFIG) -> dict[tuple[str, str], Any]:
    return {(one.kind, one.key): one for one in judge.wanted(seen, settings, lambda _: "mend it")}


@pytest.mark.parametrize("name", ["connected-idle-alice", "connected-idle-bob"])
def test_a_healthy_pair_wants_nothing(name: str) -> None:
    assert wanted(world(states=captured(name))) == {}
    assert wanted(world()) == {}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("disconnected-guest-writing-alice", {("connection", "web1-xvda"), ("connection", "web1-xvdb")}),
        ("syncing-alice", {("resync", "web1-xvda")}),
        ("syncing-bob", set()),  # the other side tells of it
    ],
)
def test_what_real_states_want(name: str, keys: set[tuple[str, str]]) -> None:
    states = captured(name)
    states.setdefault(1001, state())
    assert set(wanted(world(states=states))) == keys


@pytest.mark.parametrize(
    ("seen", "key", "severity"),
    [
        (state("WFConnection", "UpToDate/DUnknown"), ("connection", "web1-xvda"), "warning"),
        (state("StandAlone", "UpToDate/DUnknown"), ("connection", "web1-xvda"), "warning"),
        (state("SyncSource", "UpToDate/Inconsistent", out_of_sync=5 << 20), ("resync", "web1-xvda"), "info"),
        (state("PausedSyncS", "UpToDate/Inconsistent"), ("resync", "web1-xvda"), "info"),
        (state("Connected", "Diskless/UpToDate"), ("disk", "web1-xvda"), "critical"),
        (state("Connected", "Failed/UpToDate"), ("disk", "web1-xvda"), "critical"),
        (state(out_of_sync=8192), ("out-of-sync", "web1-xvda"), "error"),
        (state(roles="Primary/Primary"), ("window", "web1"), "critical"),
    ],
)
def test_each_trouble_wants_its_alert(seen: State, key: tuple[str, str], severity: str) -> None:
    found = wanted(world(seen))
    assert set(found) == {key} and found[key].severity == severity
    assert found[key].vm == "web1" and "web1" in found[key].what and found[key].do


def test_numbers_and_names_are_in_what_is_said() -> None:
    assert (
        "to bob, 5 MiB to go"
        in wanted(world(state("SyncSource", out_of_sync=5 << 20)))["resync", "web1-xvda"].what
    )
    assert "8 KiB differ" in wanted(world(state(out_of_sync=8192)))["out-of-sync", "web1-xvda"].what
    assert "StandAlone" in wanted(world(state("StandAlone")))["connection", "web1-xvda"].what


def test_verify_is_left_to_itself() -> None:
    for connection in ("VerifyS", "VerifyT"):
        assert wanted(world(state(connection, out_of_sync=8192))) == {}
    assert wanted(world(state(out_of_sync=8192), locked=frozenset({"web1"}))) == {}
    told = frozenset({("verify", "web1-xvda")})
    assert wanted(world(state(out_of_sync=8192), raised=told)) == {}
    both = told | {("out-of-sync", "web1-xvda")}
    assert set(wanted(world(state(out_of_sync=8192), raised=both))) == {("out-of-sync", "web1-xvda")}
    step = tell.Patience().step([], told, (), 0.0)
    assert step.clear == () and step.again == float("inf"), "whoever raised it says when it is over"


def test_a_resource_that_isnt_up() -> None:
    assert set(wanted(world(states={1001: state()}))) == {("missing", "web1-xvda")}
    assert len(wanted(world(states={}))) == 2


@pytest.mark.parametrize("kind", ["replicate", "forget", "recover", "grow"])
def test_a_change_that_takes_disks_up_and_down_is_no_trouble(kind: str) -> None:
    intent = {"kind": kind, "vm": "web1", "age": "5"}
    seen = world(state("StandAlone", "Diskless/DUnknown"), intents=(intent,), backends=())
    assert wanted(seen) == {}
    raised = frozenset({("connection", "web1-xvda")})
    assert set(wanted(replace(seen, raised=raised))) == raised, "told of before: it isn't over yet"


def test_windows() -> None:
    both = state(roles="Primary/Primary")
    intent = {"kind": "window", "vm": "web1", "age": "70"}
    (alone,) = wanted(world(both)).values()
    (migrating,) = wanted(world(both, intents=(intent,))).values()
    assert alone.settles < 10 and migrating.settles == judge.BOTH_PRIMARY
    assert wanted(world(intents=(intent,))) == {}
    (by_libvirt,) = wanted(world(both, intents=({**intent, "by": "libvirt"},))).values()
    assert by_libvirt.settles == judge.MIGRATION
    (long,) = wanted(world(intents=({**intent, "age": "3700"},))).values()
    assert (long.kind, long.severity) == ("window", "warning")


def test_disks_of_libvirt_are_on_the_devices_themselves() -> None:
    plain = "/etc/xen/scripts/block"
    virt = tuple(
        Backend("7", vdev[-1], "web1", device, path, plain, vdev, state="4")
        for vdev, device, path in (("xvda", "93:3e8", "/dev/drbd1000"), ("xvdb", "93:3e9", "/dev/some-link"))
    )
    assert wanted(world(backends=virt)) == {}
    (lacks,) = wanted(world(backends=virt[:1])).values()
    assert (lacks.kind, lacks.key) == ("without-disk", "web1-xvdb")
    other = replace(virt[1], device="93:7", params="/dev/drbd7")
    assert {kind for kind, _ in wanted(world(backends=(virt[0], other)))} == {"without-disk", "unreplicated"}


def test_marks_permits_and_handlers() -> None:
    alone = state("StandAlone", "UpToDate/DUnknown")
    found = wanted(world(alone, splits=frozenset({"web1-xvda"}), taken_over=frozenset({"web1"})))
    assert {("split-brain", "web1-xvda"), ("takeover", "web1")} <= set(found)
    raised = frozenset({("handler", "web1-xvda")})
    assert ("handler", "web1-xvda") in wanted(world(alone, raised=raised))
    assert ("handler", "web1-xvda") not in wanted(world(alone))
    assert ("handler", "web1-xvda") not in wanted(world(raised=raised))


def test_old_copies_and_when_the_next_gets_old() -> None:
    lost = state("WFConnection", "UpToDate/DUnknown")
    old = world(lost, in_sync={"web1-xvda": NOW - 1801})
    young = world(lost, in_sync={"web1-xvda": NOW - 1700})
    assert ("stale", "web1-xvda") in wanted(old) and ("stale", "web1-xvda") not in wanted(young)
    assert judge.due(young, 30) == NOW + 100 and judge.due(old, 30) == float("inf")
    assert ("stale", "web1-xvda") not in wanted(world(lost)), "never in sync: the first sync goes on"
    assert ("stale", "web1-xvda") not in wanted(world(in_sync={"web1-xvda": 0.0}))


def other(path: str, domain: str = "web2", script: str = "/etc/xen/scripts/block", **changes: Any) -> Backend:
    return replace(Backend("9", "51712", domain, "fe:9", path, script, "xvdc"), **changes)


@pytest.mark.parametrize(
    "disk",
    [
        other("/dev/vg0/scratch-1"), other("/dev/san/web2"), other("/dev/vg9/web2"),
        other("/dev/vg0/x", domain="test-1"), other("/dev/vg0/x", writable=False),
        other("/dev/vg0/x", domid="0"),
        other("/dev/vg0/x", domain="web2--incoming"), other("nbd:x"),
    ],
)  # fmt: skip
def test_disks_that_need_no_replica(disk: Backend) -> None:
    assert wanted(world(backends=(*DISKS, disk))) == {}


@pytest.mark.parametrize(
    ("disk", "vm"),
    [
        (other("/dev/vg0/web2"), "web2"),
        (other("/dev/mapper/vg0-web2"), "web2"),
        (other("aio:/dev/vg0/web2"), "web2"),
        (other("/dev/vg9/data", domain="web1"), "web1"),  # it keeps a replicated VM from moving
        (other("/srv/data.img", domain="web1"), "web1"),
    ],
)
def test_disks_that_should_have_one(disk: Backend, vm: str) -> None:
    (found,) = wanted(world(backends=(*DISKS, disk))).values()
    assert (found.kind, found.key) == ("unreplicated", vm) and "xvdc" in found.what
    assert wanted(world(backends=(*DISKS, disk)), None) == {}


def test_a_vm_that_runs_without_a_disk() -> None:
    (found,) = wanted(world(backends=DISKS[:1])).values()
    assert (found.kind, found.key) == ("without-disk", "web1-xvdb") and found.settles < 10
    closing = replace(DISKS[0], state="5")
    for left in ((closing,), ()):
        found = next(one for one in wanted(world(backends=left)).values() if one.key == "web1-xvdb")
        assert found.settles > 22, "it goes down, and one of its disks is still being demoted"
    assert wanted(world(backends=DISKS[:1], domains=("Domain-0",))) == {}
    assert wanted(world(backends=None)) == {}, "xenstore couldn't be read: nothing is known"


def test_beneath_is_told_once_and_isnt_a_missing_disk_too() -> None:
    finding = Finding("web1", "7", "/dev/vg0/web1", "web1-xvda", "web1", "bob")
    seen = world(beneath=(finding,), backends=(other("/dev/vg0/web1", "web1", domid="7"), DISKS[1]))
    (found,) = wanted(seen).values()
    assert (found.kind, found.key, found.do) == ("beneath", "web1-xvda.7", "mend it")
    (again,) = wanted(replace(seen, raised=frozenset({("beneath", "web1-xvda.7")}))).values()
    assert again.do == "", "no fork for what is raised already"


@pytest.mark.parametrize(
    ("kind", "seen", "words"),
    [
        ("connection", state(), "Connected, UpToDate/UpToDate"),
        ("resync", state("WFConnection"), "connection is lost"),
        ("disk", state(), "UpToDate"),
        ("takeover", state(), "back"),
    ],
)
def test_how_it_ended(kind: str, seen: State, words: str) -> None:
    assert words in judge.ended(world(seen), kind, "web1-xvda")
    assert judge.ended(world(records={}), "connection", "web1-xvda") == "not replicated any more"


def steps(story: list[tuple[float, bool, bool]], settles: float = 2.0) -> list[str]:
    """What is done at each (time, wanted, raised)."""
    patience = tell.Patience()
    one = replace(next(iter(wanted(world(state("WFConnection"))).values())), settles=settles)
    done = []
    for now, is_wanted, is_raised in story:
        raised = [("connection", "web1-xvda")] if is_raised else []
        step = patience.step([one] if is_wanted else [], raised, (), now)
        done.append("raise" if step.raise_ else "clear" if step.clear else f"{step.again:g}")
    return done


def test_patience() -> None:
    assert steps([(0, True, False), (1.5, True, False), (2.0, True, False)]) == ["2", "0.5", "raise"]
    assert steps([(0, True, False), (1, False, False), (2, True, False), (3, True, False)]) == [
        "2",
        "inf",
        "2",
        "1",
    ]
    assert steps([(0, False, True), (1, False, True), (3, False, True)]) == ["3", "2", "clear"]
    # gone for a moment only
    assert steps([(0, False, True), (2, True, True), (2.5, False, True)]) == ["3", "inf", "3"]
    assert steps([(0, True, False)], 0.0) == ["raise"]
    nothing = tell.Patience().step([], [("beneath", "x")], ("beneath",), 0.0)
    assert nothing.clear == () and nothing.again == float("inf")


class Host:
    """A host for the whole watcher: /proc/drbd, xenstore, records, a clock."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for name in (
            "STATE",
            "RUN",
            "RESOURCES",
            "INTENTS",
            "LOCKS",
            "PERMITS",
            "CONFIG",
            "STOPPING",
            "CRASH_AT",
        ):
            monkeypatch.setattr(paths, name, str(root / name.lower()))
        monkeypatch.setattr(paths, "ROOT", str(root))
        monkeypatch.setattr(paths, "XENSTORED_SOCKET", str(root / "xenstored/socket"))
        (root / "proc").mkdir()
        (root / "config").write_text("x")
        for name, record in RECORDS.items():
            statefile.write(f"{paths.RESOURCES}/{name}", record)
        self.tree = {"/local/domain/7/name": "web1"}
        for disk in DISKS:
            base = f"backend/vbd/7/{disk.devid}"
            self.tree |= {f"{base}/{key}": value for key, value in (
                ("params", disk.params), ("script", disk.script), ("dev", disk.vdev), ("mode", "w"),
                ("state", "4"), ("physical-device", "93:3e8"),
            )}  # fmt: skip
        self.xenstored = FakeXenstored(paths.XENSTORED_SOCKET, self.tree)
        self.rounds = 0
        self.now = 1000.0
        self.said: list[str] = []
        monkeypatch.setattr(daemon.rounds, "start", self._round)
        monkeypatch.setattr(config, "load", lambda: CONFIG)
        monkeypatch.setattr(daemon.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(daemon.time, "time", lambda: NOW + self.now)
        monkeypatch.setattr(log, "event", lambda kind, text, *_, **__: self.said.append(f"{kind}: {text}"))
        self.proc("connected-idle-alice")

    def _round(self) -> None:
        self.rounds += 1

    def proc(self, name: str) -> None:
        (self.root / "proc/drbd").write_text((CAPTURED / f"proc-drbd-{name}.txt").read_text())

    def watch(self, watcher: daemon.Watcher, seconds: float) -> int:
        """Let it look when it wants to; how often it did."""
        end, looks = self.now + seconds, 0
        while self.now < end:
            wait = watcher.look()
            looks += 1
            self.now += max(wait, 0.1)
        return looks

    def raised(self) -> set[tuple[str, str]]:
        return {(record["kind"], record["key"]) for record in alerts.active()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Host(tmp_path, monkeypatch)
    yield made
    made.xenstored.close()


LOST = {("connection", "web1-xvda"), ("connection", "web1-xvdb")}


def test_a_permit_ends_when_the_hosts_have_met(host: Host) -> None:
    watcher = daemon.Watcher()
    host.proc("disconnected-guest-writing-alice")
    for name in (*RECORDS, "other-xvda"):
        statefile.write(permits.path(name), {"why": permits.TAKEOVER, "current": "1"})
    watcher.look()
    assert statefile.names(paths.PERMITS) == ["other-xvda", *RECORDS]
    host.proc("connected-idle-alice")
    watcher.look()
    assert statefile.names(paths.PERMITS) == ["other-xvda"], "of no resource of this host's: not its to end"


def test_a_quiet_host_is_looked_at_once_a_minute(host: Host) -> None:
    assert host.watch(daemon.Watcher(), 600) == 10
    assert host.raised() == set() and host.rounds == 0
    assert insync.last("web1-xvda") is not None


def test_the_sender_is_woken_at_first_sight(host: Host) -> None:
    """So it has read a changed configuration by the time that there is something to tell."""
    listener = bell.Bell()
    watcher = daemon.Watcher()
    watcher.look()
    assert not _rung(listener)
    host.proc("disconnected-guest-writing-alice")
    watcher.look()
    assert _rung(listener) and host.raised() == set()
    host.now += 1
    watcher.look()
    assert not _rung(listener), "once"
    host.now += 1.1
    watcher.look()
    assert _rung(listener) and host.raised() == LOST


def _rung(listener: bell.Bell) -> bool:
    poll = select.poll()
    poll.register(listener.fd, select.POLLIN)
    there = bool(poll.poll(0))
    listener.wait(0.0)  # empties it
    return there


def test_a_lost_link_and_its_end(host: Host) -> None:
    watcher = daemon.Watcher()
    watcher.look()
    host.proc("disconnected-guest-writing-alice")
    host.watch(watcher, 5)
    assert host.raised() == LOST
    host.watch(watcher, 120)
    host.proc("connected-idle-alice")
    host.watch(watcher, 5)
    assert host.raised() == set()
    assert {record["seq"] for record in store.all_records()} == {"2"}


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3, 5, 8])
def test_killed_at_any_look_nothing_is_lost_or_repeated(host: Host, killed_after: int) -> None:
    daemon.Watcher().look()
    for name in ("disconnected-guest-writing-alice", "connected-idle-alice"):
        host.proc(name)
        watcher = daemon.Watcher()
        for _ in range(killed_after):
            host.now += max(watcher.look(), 0.1)
        host.watch(daemon.Watcher(), 130)
        assert host.raised() == (LOST if "disconnected" in name else set())
    assert {record["seq"] for record in store.all_records()} == {"2"}


def test_without_xenstore_what_it_knows_stays(host: Host) -> None:
    watcher = daemon.Watcher()
    del host.xenstored.tree["backend/vbd/7/b/params"], host.xenstored.tree["backend/vbd/7/b/script"]
    host.watch(watcher, 20)
    assert host.raised() == {("without-disk", "web1-xvdb")}
    host.xenstored.silent = True
    paths.XENSTORED_SOCKET = "/nonexistent"
    host.watch(watcher, 200)
    assert host.raised() == {("without-disk", "web1-xvdb")}
    assert sum("xenstore" in text for text in host.said) == 1


def test_a_host_that_shuts_down_raises_nothing(host: Host) -> None:
    statefile.write(paths.STOPPING, {"pid": "1"})
    (host.root / "proc/drbd").write_text("")
    host.watch(daemon.Watcher(), 60)
    assert host.raised() == set()


def test_old_at_the_moment(host: Host) -> None:
    watcher = daemon.Watcher()
    watcher.look()
    host.proc("disconnected-guest-writing-alice")
    host.watch(watcher, 1700)
    assert host.raised() == LOST
    host.watch(watcher, 100)
    assert ("stale", "web1-xvda") in host.raised()


def test_a_copy_taken_over_until_the_permit_goes(host: Host) -> None:
    statefile.write(f"{paths.PERMITS}/web1-xvda", {"why": "takeover", "current": "0"})
    statefile.write(f"{paths.PERMITS}/web1-xvdb", {"why": "survivor", "current": "0"})
    watcher = daemon.Watcher()
    host.watch(watcher, 1)
    assert host.raised() == {("takeover", "web1")}
    statefile.remove(f"{paths.PERMITS}/web1-xvda")
    host.watch(watcher, 70)
    assert host.raised() == set()


def test_what_the_reconciler_leaves_is_told_when_it_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftover.time, "time", lambda: NOW + host.now)
    for _ in range(2):
        leftover.note("web1", ["web1: its window is open", "more"])
        host.now += 60
    assert host.raised() == set()
    leftover.note("web1", ["web1: its window is open", "more"])
    (record,) = alerts.active()
    assert record["key"] == "web1" and "its window is open (and 1 more)" in record["what"]
    leftover.note("web1", [])
    assert host.raised() == set() and not os.path.exists(leftover.path("web1"))
    leftover.note("web1", ["again"])
    assert host.raised() == set(), "it has to last once more"


def test_ready_and_alive_reach_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.say("READY=1\nWATCHDOG=1")
        assert server.recv(100) == b"READY=1\nWATCHDOG=1"
    notify.say("WATCHDOG=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify.say("WATCHDOG=1")


def drbdsetup(folder: Path, body: str) -> None:
    program = folder / "drbdsetup"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(paths, "PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(run.ENV, "PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(paths, "XENSTORED_SOCKET", "/nonexistent/socket")
    monkeypatch.setattr(log, "event", lambda *_, **__: None)
    made = bells.Bells()
    yield made
    made.events.stop()


def rings(made: bells.Bells, seconds: float = 10) -> bool:
    """Whether DRBD's bell rings; xenstore's does as well, once: nobody listens there."""
    return made.wait(seconds)[0] or made.wait(seconds)[0]


def test_a_line_of_drbd_rings(events: bells.Bells, tmp_path: Path) -> None:
    drbdsetup(tmp_path, 'test "$*" = events2 && echo exists - && sleep 1 && echo change && exec sleep 30')
    events.keep_up()
    assert rings(events) and events.events.alive()
    began = time.monotonic()
    assert rings(events)
    assert 0.2 < time.monotonic() - began < 8
    assert not events.wait(0.1)[0]


def test_the_child_that_ends_is_started_again_but_not_at_once(events: bells.Bells, tmp_path: Path) -> None:
    drbdsetup(tmp_path, "echo x >>$0.ran")
    events.keep_up()
    rings(events, 5)
    for _ in range(3):
        events.keep_up()
        events.wait(0.05)
    assert (tmp_path / "drbdsetup.ran").read_text().count("x") == 1
    assert not events.events.alive()
    events.events._next = 0.0
    events.keep_up()
    events.wait(2)
    assert (tmp_path / "drbdsetup.ran").read_text().count("x") == 2


def test_xenstore_rings_through_the_thread(events: bells.Bells) -> None:
    os.eventfd_write(events.waker.fd, 1)
    assert events.wait(5) == (False, True)
    assert events.wait(0.05) == (False, False)


def test_a_look_reads_what_is_there(host: Host) -> None:
    host.proc("syncing-alice")
    seen, trouble = look.world(NOW)
    assert trouble == "" and seen.backends == DISKS and "web1" in seen.domains
    first = seen.state("web1-xvda")
    assert first is not None and first.out_of_sync == 64208 * 1024


def test_a_takeovers_alert_lasts_until_the_other_host_is_back() -> None:
    """Once the VM has written here its permit is a survivor's; the alert ended with that, and
    said that the other host is back."""
    alone = state("WFConnection", "UpToDate/Outdated", "Primary/Unknown")
    told = frozenset({("takeover", "web1")})
    assert ("takeover", "web1") not in wanted(world(alone))
    assert ("takeover", "web1") in wanted(world(alone, taken_over=frozenset({"web1"})))
    assert ("takeover", "web1") in wanted(world(alone, raised=told))
    assert ("takeover", "web1") not in wanted(world(state(), raised=told))
    assert judge.ended(world(), "takeover", "web1") == "the other host is back"
