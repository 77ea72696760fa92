"""Takeover: who may start without the other host, and what it takes to be allowed."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xenhelper import (
    alerts,
    alive,
    config,
    dead,
    insync,
    intents,
    moved,
    paths,
    permits,
    reconcile,
    statefile,
    takeover,
)
from xenhelper.cli import main
from xenhelper.cli import takeover as command
from xenhelper.drbd import events, verbs
from xenhelper.errors import CommandFailed, Refused, UsageError
from xenhelper.run import Result

NOW = 1_700_000_000.0


def copy(as_of: float = NOW - 10, **values: Any) -> takeover.Copy:
    state = events.Resource("web1-xvda")
    state.minor = 1000
    fields = {"role": "Secondary", "disk": "UpToDate", "connection": "Connecting", **values}
    for key, value in fields.items():
        setattr(state, key, value)
    return takeover.Copy("web1-xvda", 1000, state, as_of)


def test_a_current_copy_is_permitted_and_one_in_use_left_alone() -> None:
    assert takeover.judge(copy(), NOW, 900, None) == takeover.PERMIT
    assert takeover.judge(copy(role="Primary"), NOW, 900, None) == takeover.NOTHING


@pytest.mark.parametrize(
    "disk", ["Inconsistent", "Diskless", "Failed", "Attaching", "Negotiating", "DUnknown"]
)
def test_half_a_disk_is_refused_whatever_is_accepted(disk: str) -> None:
    for accept in (None, 0.0, NOW):
        with pytest.raises(Refused, match="no whole state"):
            takeover.judge(copy(disk=disk), NOW, 900, accept)


def test_a_connected_peer_lives() -> None:
    with pytest.raises(Refused, match="that lives"):
        takeover.judge(copy(connection="Connected"), NOW, 900, 0.0)


def test_old_data_needs_a_word_that_covers_its_age() -> None:
    old = copy(NOW - 7200)
    with pytest.raises(Refused, match="2 hours ago.*--accept-data-as-of 2023-11-14T20:13:20Z"):
        takeover.judge(old, NOW, 900, None)
    with pytest.raises(Refused, match="older than what you accept"):
        takeover.judge(old, NOW, 900, NOW - 3600)
    assert takeover.judge(old, NOW, 900, insync.seconds("2023-11-14T20:13:20Z")) == takeover.PERMIT


@pytest.mark.parametrize("disk", ["Outdated", "Consistent"])
def test_a_copy_that_drbd_holds_for_old_is_forced_only_when_accepted(disk: str) -> None:
    with pytest.raises(Refused, match=f"is {disk}"):
        takeover.judge(copy(disk=disk), NOW, 900, None)
    assert takeover.judge(copy(disk=disk), NOW, 900, NOW - 60) == takeover.FORCE


def test_one_moment_does_for_all_disks_of_a_vm() -> None:
    """Else who has accepted one disk's age is refused for another's, a second older."""
    with pytest.raises(Refused, match="2 hours ago.*--accept-data-as-of 2023-11-14T20:13:19Z"):
        takeover.judge(copy(NOW - 7200), NOW, 900, None, NOW - 7201)


def test_an_unknown_age_can_be_accepted_by_its_own_words() -> None:
    with pytest.raises(Refused, match="isn't known.*1970-01-01T00:00:00Z"):
        takeover.judge(copy(0.0), NOW, 900, None)
    assert takeover.judge(copy(0.0), NOW, 900, command.moment("1970-01-01T00:00:00Z")) == takeover.PERMIT
    with pytest.raises(UsageError):
        command.moment("yesterday")


def test_order_and_memory() -> None:
    order = takeover.ordered(["web2", "db1", "web1", "a"], ["db*", "web*"])
    assert order == ["db1", "web1", "web2", "a"]
    need = {"db1": 400, "web1": 700, "web2": 100, "a": 1}
    assert takeover.fitting(order, need, 600) == (["db1", "web2", "a"], ["web1"])


# the whole command on a host with two VMs


class Host:
    def __init__(self) -> None:
        self.states: dict[str, events.Resource] = {}
        self.sign = ""
        self.fenced: list[list[str]] = []
        self.fence_works = True
        self.done: list[str] = []
        self.told: dict[str, list[dict[str, str]]] = {}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    for name in ("STATE", "RUN", "RESOURCES", "VMS", "INTENTS", "LOCKS", "PERMITS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    for number, vm in enumerate(("web1", "web2")):
        name = f"{vm}-xvda"
        row = {"resource": name, "vm": vm, "minor": str(1000 + number), "host": "alice", "peer": "bob"}
        statefile.write(f"{paths.RESOURCES}/{name}", row)
        statefile.write(f"{paths.VMS}/{vm}", {"vm": vm, "config": f"/etc/xen/{vm}.cfg"})
        insync.write(name, time.time(), "test")
        state = events.Resource(name)
        state.minor, state.role, state.disk, state.connection = (
            1000 + number,
            "Secondary",
            "UpToDate",
            "Connecting",
        )
        made.states[name] = state
    peer = config.Peer("bob", "192.0.2.2", "10.99.0.2", "10.99.0.1", {}, fence_command=())
    settings = config.Config("alice", "a", "b", {"bob": peer}, (), (), (), (), (1, 2), (1, 2), "A")
    monkeypatch.setattr(config, "load", lambda: made.settings)  # type: ignore[attr-defined]
    made.settings = settings  # type: ignore[attr-defined]
    monkeypatch.setattr(events, "snapshot", lambda *_: made.states)
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: (0xAB00 + minor, 0))
    monkeypatch.setattr(alive, "sign_of_life", lambda peer: made.sign)
    monkeypatch.setattr(takeover, "_memory_kib", lambda path: 0)
    monkeypatch.setattr(moved, "asked", lambda peers: made.told)

    def primary(minor: int, force: bool = False, timeout: float = 0) -> None:
        made.done.append(f"primary {minor} {force}")

    monkeypatch.setattr(verbs, "primary", primary)
    monkeypatch.setattr(
        verbs, "secondary", lambda minor, seconds, name: made.done.append(f"secondary {minor}")
    )

    def program(argv: list[str], timeout: float) -> Result:
        made.fenced.append(argv)
        if not made.fence_works:
            raise CommandFailed(argv, 1, "no power switch", timeout)
        return Result(0, "", "")

    monkeypatch.setattr(takeover, "program", program)
    return made


def take(
    *vms: str, dead: bool = True, accept: float | None = None, dry: bool = False, of_peer: str = ""
) -> tuple[list[str], str]:
    said: list[str] = []
    left = takeover.run(list(vms), not vms, dead, accept, dry, said.append, of_peer)
    return left, "\n".join(said)


def permitted() -> list[str]:
    return [name for name in ("web1-xvda", "web2-xvda") if permits.valid(name, 1000 + (name[3] == "2"))]


def raised() -> list[str]:
    return sorted(alert["key"] for alert in alerts.active() if alert["kind"] == "takeover")


def fence(host: Host, *argv: str) -> None:
    settings = host.settings  # type: ignore[attr-defined]
    peer = replace(settings.peers["bob"], fence_command=argv)
    host.settings = replace(settings, peers={"bob": peer})  # type: ignore[attr-defined]


def test_an_operators_word_for_one_vm_permits_that_one(host: Host) -> None:
    left, said = take("web1")
    assert left == [] and permitted() == ["web1-xvda"]
    assert "one side's writes are lost" in said and "last in sync" in said
    assert "xl create /etc/xen/web1.cfg" in said and "web2.cfg" not in said
    assert host.done == [] and intents.all_open() == []


def test_with_several_peers_all_means_those_of_one(host: Host) -> None:
    settings = host.settings  # type: ignore[attr-defined]
    carol = replace(settings.peers["bob"], name="carol")
    host.settings = replace(settings, peers={**settings.peers, "carol": carol})  # type: ignore[attr-defined]
    path = f"{paths.RESOURCES}/web2-xvda"
    statefile.write(path, {**(statefile.read(path) or {}), "peer": "carol"})
    with pytest.raises(Refused, match="different other hosts: bob, carol; .*--all --peer HOST"):
        take()
    take(of_peer="carol")
    assert permitted() == ["web2-xvda"]


def test_what_was_moved_away_meanwhile_isnt_taken_over(host: Host) -> None:
    row = statefile.read(f"{paths.RESOURCES}/web1-xvda") or {}
    host.told = {"web1": [{**moved.half([{**row, "port": "7800"}]), "hosts": "bob,carol", "at": ""}]}
    with pytest.raises(Refused, match="web1: bob and carol have it now"):
        take("web1")
    assert permitted() == []
    take("web2")
    assert permitted() == ["web2-xvda"]


def test_without_proof_or_word_it_is_refused(host: Host) -> None:
    with pytest.raises(Refused, match="nothing proves"):
        take("web1", dead=False)
    assert permitted() == []


def test_the_word_holds_for_later_vms_until_the_peer_returns(host: Host) -> None:
    take("web1")
    take("web2", dead=False)
    assert permitted() == ["web1-xvda", "web2-xvda"]
    state = host.states["web1-xvda"]
    state.connection = "Connected"
    record = statefile.read(f"{paths.RESOURCES}/web1-xvda")
    assert record is not None
    reconcile._met(record, state)
    assert permitted() == [], "who is back with one disk lives, whatever becomes of the other's"
    with pytest.raises(Refused, match="nothing proves"):
        take("web2", dead=False)


def test_a_peer_that_comes_back_while_it_is_taken_over(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    grant = permits.grant_takeover

    def back(resource: str, minor: int) -> None:
        dead.heard("bob")
        grant(resource, minor)

    monkeypatch.setattr(permits, "grant_takeover", back)
    with pytest.raises(Refused, match="web1 isn't taken over: bob has just come back"):
        take("web1")
    assert permitted() == [] and intents.all_open() == [] and raised() == []


@pytest.mark.parametrize("dead", [True, False])
def test_any_sign_of_life_refuses_before_anything_is_fenced(host: Host, dead: bool) -> None:
    host.sign = "10.99.0.2 (replication path) answers ping"
    fence(host, "/bin/fence", "bob")
    with pytest.raises(Refused, match="isn't dead: 10.99.0.2"):
        take(dead=dead)
    assert permitted() == [] and host.fenced == []


def test_a_fence_command_proves_it(host: Host) -> None:
    fence(host, "/bin/fence", "bob")
    take(dead=False)
    assert host.fenced == [["/bin/fence", "bob"]] and permitted() == ["web1-xvda", "web2-xvda"]


def test_a_fence_command_that_fails_or_lies_proves_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence(host, "/bin/fence")
    host.fence_works = False
    with pytest.raises(Refused, match="isn't proven dead.*no power switch"):
        take("web1", dead=False)
    host.fence_works = True
    signs = iter(["", "bob answers ping"])
    monkeypatch.setattr(alive, "sign_of_life", lambda peer: next(signs))
    with pytest.raises(Refused, match="says that bob is off, but"):
        take("web1", dead=False)
    assert permitted() == []


def test_all_takes_what_it_can_and_names_the_rest(host: Host) -> None:
    host.states["web1-xvda"].disk = "Inconsistent"
    left, said = take()
    assert permitted() == ["web2-xvda"]
    assert len(left) == 1 and left[0].startswith("web1-xvda: ") and "web2.cfg" in said


def test_an_outdated_copy_is_made_current_only_when_accepted(host: Host) -> None:
    host.states["web1-xvda"].disk = "Outdated"
    with pytest.raises(Refused, match="accept-data-as-of"):
        take("web1")
    assert host.done == []
    take("web1", accept=time.time() - 60)
    assert host.done == ["primary 1000 True", "secondary 1000"] and permitted() == ["web1-xvda"]


def test_a_dry_run_does_nothing(host: Host) -> None:
    fence(host, "/bin/fence")
    take("web1", dead=False, dry=True)
    take("web1", dry=True)
    assert permitted() == [] and host.fenced == [] and intents.all_open() == []
    with pytest.raises(Refused, match="nothing proves"):
        fence(host)
        take("web1", dead=False)


def test_killed_in_the_middle_the_reconciler_undoes_it_and_it_can_be_repeated(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = permits.grant_takeover

    def killed(resource: str, minor: int) -> None:
        grant(resource, minor)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(permits, "grant_takeover", killed)
        with pytest.raises(KeyboardInterrupt):
            take("web1")
    assert [intent["kind"] for intent in intents.all_open()] == ["takeover"]
    takeover.undo("web1")
    assert permitted() == [] and intents.all_open() == []
    take("web1")
    assert permitted() == ["web1-xvda"]


def test_the_command_line(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["takeover"]) == 2
    assert main.main(["takeover", "web1", "--all"]) == 2
    assert main.main(["takeover", "web1"]) == 3
    assert main.main(["takeover", "nothere", "--peer-is-dead"]) == 3
    assert main.main(["takeover", "--all", "--peer-is-dead"]) == 0
    host.states["web2-xvda"].disk = "Diskless"
    assert main.main(["takeover", "--all", "--peer-is-dead"]) == 3
