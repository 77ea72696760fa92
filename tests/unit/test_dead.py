"""A host that was taken for dead is heard of again: what a takeover permitted without it ends."""

import time
from pathlib import Path

import pytest

from xenhelper import alerts, dead, insync, paths, permits, statefile
from xenhelper.drbd import verbs
from xenhelper.errors import XenhelperError


@pytest.fixture(autouse=True)
def taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """web1 and web2, shared with bob; both may start here without it."""
    for name in ("STATE", "RUN", "RESOURCES", "VMS", "PERMITS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(verbs, "generation", lambda minor: (0xAB00 + minor, 0))
    dead.note("bob", "an operator's word")
    for number, vm in enumerate(("web1", "web2")):
        name = f"{vm}-xvda"
        row = {"resource": name, "vm": vm, "minor": str(1000 + number), "peer": "bob"}
        statefile.write(f"{paths.RESOURCES}/{name}", row)
        statefile.write(f"{paths.VMS}/{vm}", {"vm": vm, "config": f"/etc/xen/{vm}.cfg"})
        permits.grant_takeover(name, 1000 + number)
        alerts.try_raise("takeover", vm, f"{vm} was taken over", "wait", vm=vm)


def permitted() -> list[str]:
    return statefile.names(paths.PERMITS)


def raised() -> list[str]:
    return sorted(alert["key"] for alert in alerts.active())


def _note(vm: str, **values: float) -> None:
    """When ``vm`` was started and stopped here, in seconds from now."""
    path = f"{paths.VMS}/{vm}"
    times = {key: insync.stamp(time.time() + value) for key, value in values.items()}
    statefile.write(path, {**(statefile.read(path) or {}), **times})


def test_what_nobody_has_used_ends() -> None:
    """Both paths may be lost again before DRBD has met, and the permit's generation is the
    peer's as well, whatever it writes meanwhile."""
    _note("web1", ran_at=-3600.0)
    _note("web2", ran_at=0.0)
    dead.heard("carol")
    assert permitted() == ["web1-xvda", "web2-xvda"], "carol is another host"
    dead.heard("bob")
    assert permitted() == ["web2-xvda"], "it was started by its permit: its reboot needs it"
    assert raised() == ["web2"] and not dead.holds("bob")


def test_a_start_that_failed_half_way_uses_no_permit() -> None:
    _note("web1", ran_at=1.0, let_go_at=4.0)
    dead.heard("bob")
    assert permitted() == []


def test_what_isnt_a_takeovers_or_of_that_peer_stays() -> None:
    for name, why in (("web2-xvda", permits.SURVIVOR), ("gone-xvda", "takeover"), ("db1-xvda", "takeover")):
        statefile.write(permits.path(name), {"why": why, "current": "1"})
    statefile.write(f"{paths.RESOURCES}/db1-xvda", {"resource": "db1-xvda", "vm": "db1", "peer": "carol"})
    dead.heard("bob")
    assert permitted() == ["db1-xvda", "gone-xvda", "web2-xvda"]


def test_permitted_between_the_two_looks_of_who_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note is there still when takeover looks for it, so the permit must not outlive it."""
    remove = statefile.remove

    def removed(path: str) -> None:
        if path.endswith("/dead/bob"):
            permits.grant_takeover("web1-xvda", 1000)
        remove(path)

    monkeypatch.setattr(statefile, "remove", removed)
    dead.heard("bob")
    assert permitted() == []


def test_what_cant_be_noted_ends_with_the_next_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str) -> None:
        raise XenhelperError(f"{path} can't be removed: Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(statefile, "remove", full)
        dead.heard("bob")  # who hears goes on
    assert dead.holds("bob")
    dead.heard("bob")
    assert permitted() == []
