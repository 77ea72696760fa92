"""Boot and shutdown: autostart follows the VM, ceding is on record, old images stay out."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from xenhelper import (
    autostart,
    boot,
    ceded,
    create,
    fence,
    handed,
    hotplug,
    insync,
    intents,
    paths,
    restore,
    statefile,
    xl,
)
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused
from xenhelper.peer import client
from xenhelper.run import Result
from xenhelper.xen import domains

T = 1_700_000_000.0


def times(ran: float | None = None, let_go: float | None = None, last_ran: str = "alice") -> dict[str, str]:
    found = {"last_ran": last_ran}
    if ran is not None:
        found["ran_at"] = insync.stamp(ran)
    if let_go is not None:
        found["let_go_at"] = insync.stamp(let_go)
    return found


def there(**more: Any) -> dict[str, object]:
    return {"domains": [], **more}


@pytest.mark.parametrize(
    ("here", "peer", "what"),
    [
        (times(T, T + 9), there(), autostart.HERE),
        (times(T, T + 9), there(**times(T - 99, T - 9)), autostart.HERE),
        (times(T - 99, T - 9), there(**times(T, last_ran="bob")), autostart.THERE),
        # a migration's source lets go after the destination began, and knows where it went
        (times(T - 99, T + 9, last_ran="bob"), there(**times(T, last_ran="bob")), autostart.THERE),
        (times(T, last_ran="alice"), there(**times(T - 99, T + 9)), autostart.HERE),
        (times(T, T + 9), {"domains": ["web1"], "ran_at": ""}, autostart.RUNS),
        # a start over there that fails yet: both wanted it, and neither would come back to it
        (times(T, T + 9), {"domains": ["web1"], "unsettled": True}, autostart.UNKNOWN),
        (times(T, T + 9), {"domains": ["web1"], "unsettled": False}, autostart.RUNS),
        (times(T, T + 9), None, autostart.HERE),  # the block script asks again
        (times(T, last_ran="bob"), None, autostart.UNKNOWN),
        ({"last_ran": "bob"}, there(), autostart.THERE),
        # both let go within one second, and each had only heard of the other: no ping-pong
        (times(T, T + 9, last_ran="bob"), there(**times(T, T + 9, last_ran="alice")), autostart.HERE),
        (times(T, T + 9, last_ran="alice"), there(**times(T, T + 9, last_ran="bob")), autostart.HERE),
        ({}, None, autostart.HERE),
    ],
)
def test_where_a_vm_belongs(here: dict[str, str], peer: dict[str, object] | None, what: str) -> None:
    assert autostart.decide("alice", "bob", here, peer)[0] == what


def test_a_start_that_failed_is_no_run() -> None:
    assert not autostart.ran_since(times(T - 1), T)
    assert autostart.ran_since(times(T + 1), T)  # it runs, or its host crashed
    assert autostart.ran_since(times(T + 1, T + 900), T)
    assert not autostart.ran_since(times(T + 5, T + 7), T)


class Host:
    def __init__(self) -> None:
        self.answers: dict[str, dict[str, object] | Exception] = {}
        self.asked: list[str] = []
        self.running: list[domains.Domain] = []
        self.programs: list[list[str]] = []
        self.states: dict[str, events.Resource] = {}
        self.drbd: list[str] = []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    for name in ("STATE", "RUN", "RESOURCES", "VMS", "LOCKS", "PERMITS", "STOPPING"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    me = os.uname().nodename
    record = {"vm": "web1", "config": "/etc/xen/web1.cfg", "peer": "bob", "resources": "web1-xvda"}
    statefile.write(f"{paths.VMS}/web1", {**record, "last_ran": me})
    row = {"resource": "web1-xvda", "vm": "web1", "minor": "1000", "host": me, "peer": "bob"}
    statefile.write(f"{paths.RESOURCES}/web1-xvda", row)
    state = events.Resource("web1-xvda")
    state.minor, state.role, state.disk, state.connection = 1000, "Secondary", "UpToDate", "Connected"
    state.peer_role, state.peer_disk = "Secondary", "UpToDate"
    made.states["web1-xvda"] = state

    def ask(peer: str, verb: str, args: dict[str, object], timeout: float = 0) -> dict[str, object]:
        made.asked.append(verb)
        answer = made.answers.get(verb, PeerUnreachable("silent"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def program(argv: list[str], **_: object) -> Result:
        made.programs.append(argv)
        return Result(0, "stopping\n", "")

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(autostart, "run", program)
    monkeypatch.setattr(boot, "run", program)
    monkeypatch.setattr(domains, "find", lambda vm: made.running)
    monkeypatch.setattr(events, "snapshot", lambda *_: made.states)
    monkeypatch.setattr(events, "one", made.states.get)
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: (0xAB, 0))
    monkeypatch.setattr(verbs, "outdate", lambda minor: made.drbd.append(f"outdate {minor}"))
    monkeypatch.setattr(bringup, "adm", lambda vm, *words, **_: made.drbd.append(" ".join(words)))
    return made


def test_power_cut_and_bob_is_late(host: Host) -> None:
    """alice boots first: the start is tried, and done later when bob has spoken."""
    autostart.check("web1", "/etc/xen/auto/web1.cfg")  # tried: the block script will refuse
    assert autostart.wanted() == ["web1"]
    assert autostart.start_wanted() == [] and host.programs == []
    host.answers["last-ran"] = there()
    assert autostart.start_wanted() == []
    assert host.programs == [
        ["/usr/lib/xenhelper/xl", "create", "--quiet", "--defconfig", "/etc/xen/auto/web1.cfg"]
    ]
    assert autostart.wanted() == []


def test_it_runs_elsewhere(host: Host) -> None:
    host.answers["last-ran"] = {"domains": ["web1"]}
    with pytest.raises(Refused, match=r"isn't started here at boot: it runs on bob"):
        autostart.check("web1", "/etc/xen/auto/web1.cfg")
    assert autostart.wanted() == []


def test_it_last_ran_elsewhere_so_the_other_host_is_told(host: Host) -> None:
    host.answers["last-ran"] = there(**times(time.time() - 300, last_ran="bob"))
    with pytest.raises(Refused, match="last ran on bob"):
        autostart.check("web1", "/etc/xen/auto/web1.cfg")
    assert autostart.wanted() == ["web1"]
    assert autostart.start_wanted() == ["web1: bob gave no answer"] or autostart.wanted() == ["web1"]
    host.answers["autostart"] = {"starts": True}
    assert autostart.start_wanted() == []
    assert host.programs == [] and autostart.wanted() == []


def test_told_by_the_other_host_only_a_host_that_booted_starts_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = time.time() - 300
    statefile.write(
        f"{paths.VMS}/web1", {"vm": "web1", "peer": "bob", "config": "/c", **times(ran, ran + 99)}
    )
    monkeypatch.setattr(autostart, "_booted_at", lambda: ran - 999)
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": False}  # stopped on purpose
    monkeypatch.setattr(autostart, "_booted_at", lambda: ran + 200)
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": True}
    assert autostart.wanted() == ["web1"]
    with pytest.raises(Refused):
        autostart.serve_autostart("carol", {"vm": "web1"})


def test_what_was_handed_over_and_let_go_by_nobody_went_there(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source's `remove` was killed, and the destination died at once: it starts it."""
    started = time.time() - 300
    monkeypatch.setattr(autostart, "_booted_at", lambda: started - 999)
    path = f"{paths.VMS}/web1"
    statefile.write(path, {"vm": "web1", "peer": "bob", "config": "/c", **times(started)})
    handed.note("web1", "bob", insync.stamp(started + 200))
    host.running = [domains.Domain(3, "web1--migratedaway", "---ss-", "0")]
    assert autostart.serve_last_ran("bob", {"vm": "web1"})["last_ran"] == "alice"  # not over yet
    host.running = []
    with pytest.raises(Refused, match="migrated to bob"):
        autostart.serve_autostart("bob", {"vm": "web1"})
    assert autostart.serve_last_ran("bob", {"vm": "web1"}) == there(
        unsettled=False, **times(started, started + 200, last_ran="bob")
    )
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": False}  # said once


def test_what_runs_here_after_all_was_not_handed_over(host: Host) -> None:
    handed.note("web1", "bob", insync.stamp(T))
    autostart.ran_here("web1")
    assert not handed.settle("web1")


def test_a_start_that_was_refused_a_disk_is_no_run(host: Host) -> None:
    """One disk was given out, the other refused, and the `remove` of the first never came."""
    now = time.time()
    statefile.write(
        f"{paths.VMS}/web1",
        {"vm": "web1", "peer": "bob", "resources": "web1-xvda,web1-xvdb"}
        | times(now - 20, last_ran=os.uname().nodename),
    )
    autostart.want("web1", "/c")
    statefile.write(f"{paths.RUN}/refused/web1-xvdb", {"vm": "web1", "domid": "1"})
    host.answers["last-ran"] = there(**times(now - 90))
    assert autostart.start_wanted() == [] and len(host.programs) == 1


@pytest.mark.parametrize("state", ["--p---", "--ps--", "---s-d"])
def test_a_half_made_domain_is_no_run(host: Host, state: str) -> None:
    """An `add` failed, and the domain is being destroyed again: it stays wanted."""
    autostart.want("web1", "/c")
    host.answers["last-ran"] = there()
    host.running = [domains.Domain(4, "web1", state, "0")]
    assert autostart.start_wanted() == [] and autostart.wanted() == ["web1"]
    host.running = []
    assert autostart.start_wanted() == [] and autostart.wanted() == []
    assert len(host.programs) == 1


def test_a_start_that_goes_on_failing_is_given_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(argv: list[str], **_: object) -> Result:
        raise Refused("no memory")

    monkeypatch.setattr(autostart, "run", fails)
    host.answers["last-ran"] = there()
    autostart.want("web1", "/c")
    lines = [autostart.start_wanted() for _ in range(4)]
    assert [len(line) for line in lines] == [1, 1, 1, 0] and "given up" in lines[2][0]


def test_what_a_person_started_and_stopped_meanwhile_stays_stopped(host: Host) -> None:
    autostart.want("web1", "/c")
    host.answers["last-ran"] = there()
    now = time.time()
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", "peer": "bob", **times(now - 100, now)})
    assert autostart.start_wanted() == [] and host.programs == [] and autostart.wanted() == []


def test_who_is_at_its_start_is_left_alone(host: Host) -> None:
    """A hook of libvirt's has given out one disk and waits for the next; there is no domain yet,
    and the record looks as if it had run."""
    autostart.want("web1", "/c")
    host.answers["last-ran"] = there()
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", "peer": "bob", **times(time.time())})
    at_work = intents.lock("web1", who="libvirt's start")
    assert autostart.start_wanted() == [] and autostart.wanted() == ["web1"] and host.asked == []
    os.close(at_work)
    assert autostart.start_wanted() == [] and autostart.wanted() == []


def test_xendomains_is_known_by_its_parent() -> None:
    assert not autostart.by_xendomains() and not create._by_xendomains()


# ceding


def test_a_clean_shutdown_cedes_and_outdates_its_own_copy(host: Host) -> None:
    host.answers["cede"] = {}
    assert boot.stop() == ["web1: ceded to bob"]
    assert host.drbd == ["disconnect web1-xvda", "outdate 1000"]
    assert os.path.exists(paths.STOPPING)
    assert (statefile.read(ceded.path("web1-xvda")) or {})["by"] == os.uname().nodename


def test_stopping_only_the_unit_cedes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot, "run", lambda *_, **__: Result(0, "running\n", ""))
    assert boot.stop() == [] and host.asked == [] and not os.path.exists(paths.STOPPING)


@pytest.mark.parametrize(
    "change",
    [
        {"role": "Primary"},
        {"connection": "Connecting"},
        {"disk": "Inconsistent"},
        {"peer_disk": "Outdated"},
    ],
)
def test_what_is_in_use_or_not_in_sync_is_not_ceded(host: Host, change: dict[str, str]) -> None:
    for key, value in change.items():
        setattr(host.states["web1-xvda"], key, value)
    boot.stop()
    assert host.asked == [] and host.drbd == [] and statefile.read(ceded.path("web1-xvda")) is None
    with pytest.raises(Refused):
        ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})


def test_a_vm_on_the_other_host_is_bid_goodbye(host: Host) -> None:
    host.states["web1-xvda"].peer_role = "Primary"
    assert boot.stop() == ["web1: runs on bob"]
    assert host.drbd == ["disconnect web1-xvda"] and host.asked == []
    assert statefile.read(ceded.path("web1-xvda")) is None
    with pytest.raises(Refused):
        ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})


def test_a_goodbye_passes_over_what_has_no_connection(host: Host) -> None:
    """drbdadm disconnect fails there, and the disks behind it would hear no goodbye."""
    host.states["web1-xvda"].peer_role = "Primary"
    for vdev in ("xvdb", "xvdc", "xvdd"):
        row = statefile.read(f"{paths.RESOURCES}/web1-xvda") or {}
        statefile.write(f"{paths.RESOURCES}/web1-{vdev}", {**row, "resource": f"web1-{vdev}"})
    host.states["web1-xvdb"] = events.Resource("web1-xvdb")
    host.states["web1-xvdd"] = events.Resource("web1-xvdd")
    host.states["web1-xvdd"].connection = "Connecting"
    assert boot.stop() == ["web1: runs on bob"]
    assert host.drbd == ["disconnect web1-xvda", "disconnect web1-xvdd"]


def test_a_refusal_leaves_no_record_but_silence_does(host: Host) -> None:
    host.answers["cede"] = PeerFailed("shutting down, too")
    assert "not ceded" in boot.stop()[0] and statefile.read(ceded.path("web1-xvda")) is None
    host.answers["cede"] = PeerUnreachable("silent")
    assert "not ceded" in boot.stop()[0] and host.drbd == []
    # bob may have taken it: alice asks before she uses it again
    with pytest.raises(Refused, match="ceded it to bob"):
        ceded.take_back("web1-xvda", "bob")
    host.answers["uncede"] = {}
    ceded.take_back("web1-xvda", "bob")
    assert statefile.read(ceded.path("web1-xvda")) is None


def test_both_shut_down_nobody_cedes(host: Host) -> None:
    statefile.write(paths.STOPPING, {})
    with pytest.raises(Refused, match="shutting down, too"):
        ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})


def test_the_taker_may_start_unasked_as_long_as_its_data_is_what_was_ceded(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})
    host.states["web1-xvda"].connection = "Connecting"
    assert ceded.may_start("web1-xvda", 1000)
    fence.ask_consent("web1-xvda", 1000, "bob", "web1")  # bob is silent
    assert fence.fence_peer("web1-xvda") == (fence.OUTDATED, "bob ceded it when it shut down")
    ceded.take_back("web1-xvda", "bob")  # not ours to take back
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: (0xCD, 0))
    assert not ceded.may_start("web1-xvda", 1000)
    with pytest.raises(Refused, match="doesn't answer"):
        fence.ask_consent("web1-xvda", 1000, "bob", "web1")


def test_the_word_is_handed_back(host: Host) -> None:
    ceded.serve_cede("bob", {"vm": "web1", "resources": ["web1-xvda"]})
    with pytest.raises(Refused):
        ceded.serve_uncede("carol", {"resource": "web1-xvda"})
    ceded.serve_uncede("bob", {"resource": "web1-xvda"})
    assert not ceded.may_start("web1-xvda", 1000)


def test_a_host_that_shuts_down_gives_out_no_disk(host: Host) -> None:
    statefile.write(paths.STOPPING, {})
    disk = object.__new__(hotplug.Disk)
    disk.domain = "web1"
    with pytest.raises(Refused, match="shutting down"):
        hotplug.add(disk)


def test_what_another_boot_knew_of_the_peer_is_hearsay(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag that the peer's copy is outdated survives a reboot, in which the peer may
    have been made to take over."""
    state = host.states["web1-xvda"]
    state.connection, state.peer_disk, state.peer_role = "Connecting", "Outdated", "Unknown"
    monkeypatch.setattr(bringup, "up", lambda vm, name: None)
    bringup.first_up("web1", "web1-xvda")
    assert os.path.exists(bringup.hearsay("web1-xvda"))
    disk = object.__new__(hotplug.Disk)
    disk.resource, disk.domain, disk.peer, disk.vm, disk.record = "web1-xvda", "web1", "bob", "web1", {}
    with pytest.raises(Refused, match="bob doesn't answer"):
        hotplug._promote(disk, state, time.monotonic() + 5)


# restore


@pytest.mark.parametrize(
    ("record", "peer", "why"),
    [
        (times(T - 900, T + 3), there(), ""),
        (times(T - 900, T + 3), None, ""),
        ({}, None, ""),
        (times(T + 60, T + 90), there(), "started after"),
        (times(T - 900, T + 3), there(**times(T + 60)), "ran on bob after"),
        (times(T - 900, T + 3), {"domains": ["web1"]}, "web1 runs on bob"),
        (times(T - 900, T + 4000), there(), "went on running"),  # save -c
        (times(T - 900), there(), "weren't let go"),  # save -c, then a crash
        (times(T - 900, T - 60), there(), "copied"),
    ],
)
def test_images_older_than_their_disks(
    record: dict[str, str], peer: dict[str, object] | None, why: str
) -> None:
    found = restore.stale(T, record, peer, "bob")
    assert (why in found) if why else found == ""


def image(path: Path, name: str = "web1", script: str = "/etc/xen/scripts/block-xenhelper") -> str:
    tree = {"c_info": {"name": name}, "disks": [{"pdev_path": "web1-xvda", "script": script}]}
    body = json.dumps(tree).encode() + b"\0"
    data = len(body).to_bytes(4, "little") + body
    head = restore._MAGIC + b"\x04\x03\x02\x01" + (1).to_bytes(4, "little") + bytes(4)
    path.write_bytes(head + len(data).to_bytes(4, "little") + data + b"memory")
    return str(path)


def test_the_shim_refuses_an_old_image_and_leaves_others_alone(host: Host, tmp_path: Path) -> None:
    saved = image(tmp_path / "web1")
    argv = ["-v", "restore", "-p", saved]
    assert restore.main(argv) == argv  # nothing is known against it
    now = time.time()
    record = statefile.read(f"{paths.VMS}/web1") or {}
    statefile.write(f"{paths.VMS}/web1", {**record, **times(now + 60)})
    for words in (argv, ["rest", saved], ["restore", "/etc/xen/web1.cfg", saved], ["restore", "-Q", saved]):
        with pytest.raises(Refused, match=r"can't be restored.*xl create /etc/xen/web1.cfg"):
            restore.main(words)
    for other in (image(tmp_path / "b", "other"), image(tmp_path / "c", script="block"), __file__, "/none"):
        assert restore.main(["restore", other]) == ["restore", other]
    assert restore.main(["restore", "--help"]) == ["restore", "--help"]


def test_the_shims_exit_code(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", **times(now + 60)})
    assert xl.main(["restore", image(tmp_path / "web1")]) == 3
    assert "can't be restored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("states", "unsettled"),
    [(["--p---"], True), (["-b----"], False), (["--p---", "r-----"], False), (["-----d"], True), ([], False)],
)
def test_a_domain_that_may_not_come_to_anything_is_told_apart(
    host: Host, states: list[str], unsettled: bool
) -> None:
    host.running = [domains.Domain(3 + n, "web1", state, "0") for n, state in enumerate(states)]
    assert autostart.serve_last_ran("bob", {"vm": "web1"})["unsettled"] is unsettled


def test_a_vm_that_the_reconciler_starts_outlives_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    assert autostart._unit_of_its_own() == []  # no systemd: xl alone
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    argv = autostart._unit_of_its_own()
    assert argv[0] == "systemd-run" and argv[-1] == "--"
    assert {"--wait", "--pipe", "--property=KillMode=process"} <= set(argv)
