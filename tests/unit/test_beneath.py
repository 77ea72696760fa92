"""Domains beneath DRBD: found by device number or path, told once, with what mends it."""

from pathlib import Path

import pytest

from xenhelper import beneath, boot, log, paths, statefile
from xenhelper.beneath import Backend, Finding
from xenhelper.drbd import bringup, events
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import Result
from xenhelper.watch import daemon, wake

RECORDS = {
    "web1-xvda": {"vm": "web1", "volume": "/dev/vg0/web1", "meta": "/dev/vg0/web1_xhmeta", "peer": "bob"},
    "gone-xvda": {"vm": "gone", "volume": "/dev/vg0/gone", "meta": "/dev/vg0/gone_xhmeta", "peer": "bob"},
}
NUMBERS = {"/dev/vg0/web1": "fe:3", "/dev/vg0/web1_xhmeta": "fe:1a", "/dev/mapper/vg0-web1": "fe:3"}


def find(device: str = "", params: str = "") -> list[Finding]:
    disk = Backend("7", "51712", "old", device, params)
    return beneath.find([disk], RECORDS, lambda path: NUMBERS.get(path, ""))


@pytest.mark.parametrize(
    ("device", "params", "volume"),
    [
        ("fe:3", "/dev/vg0/web1", "/dev/vg0/web1"),
        ("FE:3", "whatever", "/dev/vg0/web1"),
        ("fe:1a", "", "/dev/vg0/web1_xhmeta"),
        ("", "aio:/dev/vg0/web1", "/dev/vg0/web1"),
        ("", "/dev/mapper/vg0-web1", "/dev/vg0/web1"),
    ],
)
def test_found(device: str, params: str, volume: str) -> None:
    (finding,) = find(device, params)
    assert (finding.volume, finding.resource, finding.vm, finding.domid) == (volume, "web1-xvda", "web1", "7")


@pytest.mark.parametrize(
    ("device", "params"), [("93:3e8", "web1-xvda"), ("fe:4", ""), ("", ""), ("", "aio:/x")]
)
def test_left_alone(device: str, params: str) -> None:
    assert find(device, params) == []


def test_a_volume_that_is_gone_matches_nothing() -> None:
    assert find("", "/dev/vg0/gone") == []


def test_what_mends_it_depends_on_who_has_the_good_data() -> None:
    (finding,) = find("fe:3")
    state = events.Resource("web1-xvda")
    assert "xl shutdown -w 7" in finding.do(state) and "on bob `drbdadm invalidate web1-xvda`" in finding.do(
        state
    )
    state.peer_role = events.PRIMARY
    assert "xl destroy 7" in finding.do(state) and "`drbdadm invalidate web1-xvda` here" in finding.do(state)
    assert finding.do(None) == finding.do(events.Resource("web1-xvda"))


def test_the_watcher_says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str, dict[str, str]]] = []
    monkeypatch.setattr(log, "event", lambda kind, text, priority=6, **f: said.append((kind, text, f)))
    monkeypatch.setattr(daemon, "_state", lambda _: None)
    answers = [find("fe:3"), find("fe:3"), [], find("fe:3")]
    watcher = daemon.Watcher()
    assert [len(watcher.say_beneath(tuple(found))) for found in answers] == [1, 0, 0, 1]
    assert said[0][0] == "beneath" and said[0][2]["vm"] == "web1"
    assert "xl shutdown -w 7" in said[0][1]


def test_the_watcher_outlives_xenstored(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "event", lambda kind, text, *_, **__: said.append(text))

    def fail(now: float) -> None:
        raise XenhelperError("no xenstored")

    monkeypatch.setattr(daemon.look, "world", fail)
    watcher = daemon.Watcher()
    assert watcher.look() == watcher.look() == daemon.EVERY
    assert said == ["watch: no xenstored"]


def test_without_pyxs_the_waker_only_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "event", lambda kind, text, *_, **__: said.append(text))
    monkeypatch.setattr(paths, "XENSTORED_SOCKET", "/nonexistent/socket")
    waker = wake.Waker()
    waker.start()
    assert waker._thread is not None
    waker._thread.join(5)
    assert not waker.alive() and len(said) == 1


def test_a_spinning_process_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(wake.time, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(wake.time, "process_time", lambda: clock["cpu"])
    guard = wake.SpinGuard()
    clock.update(wall=59.0, cpu=59.0)
    assert not guard.spins()
    clock.update(wall=61.0, cpu=60.0)
    assert guard.spins()
    clock.update(wall=200.0, cpu=61.0)
    assert not guard.spins()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    monkeypatch.setattr(paths, "RESOURCES", str(tmp_path / "resources"))
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
    monkeypatch.setattr(boot, "run", lambda *_, **__: Result(0, "", ""))
    monkeypatch.setattr(paths, "STOPPING", str(tmp_path / "run/stopping"))
    monkeypatch.setattr(events, "snapshot", lambda *_: {"up-xvda": events.Resource("up-xvda")})
    raised: list[tuple[str, str]] = []

    def up(vm: str, resource: str) -> None:
        raised.append((vm, resource))
        if vm == "bad":
            raise CommandFailed(["drbdadm"], 1, "broken", 1)

    monkeypatch.setattr(bringup, "up", up)
    return raised


def test_boot_raises_each_once_and_leaves_what_is_up(state: list[tuple[str, str]], tmp_path: Path) -> None:
    for name in ("bad", "up", "web1"):
        statefile.write(f"{paths.RESOURCES}/{name}-xvda", {"vm": name, "minor": "1007"})
    failed = boot.resources_up()
    assert state == [("bad", "bad-xvda"), ("web1", "web1-xvda")]
    assert len(failed) == 1 and failed[0].startswith("bad-xvda: ")
    assert (tmp_path / "run/minors/1007").exists()


def test_boot_with_nothing_to_raise(state: list[tuple[str, str]]) -> None:
    assert boot.resources_up() == [] and state == []
