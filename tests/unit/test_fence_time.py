"""Fencing and time: the handler's five seconds on a slow host, and what is asked about again."""

from pathlib import Path
from typing import Any

import pytest

from xenhelper import fence, intents, paths, permits, statefile, stepdown
from xenhelper.drbd import events, proc, verbs
from xenhelper.errors import PeerUnreachable, Refused
from xenhelper.peer import client


class Clock:
    """Time passes only where somebody looks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.allowed: dict[str, float] = {}

    def takes(self, what: str, seconds: float, allowed: float) -> None:
        self.allowed[what] = allowed
        self.now += min(seconds, allowed)
        assert seconds <= allowed, f"{what}: given up after {allowed} s"


@pytest.mark.parametrize("look", [0.01, 1.4, 1.9])
def test_a_slow_look_costs_the_peer_its_time_and_not_the_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, look: float
) -> None:
    """Seen on emulated hosts with ten processes to a processor: drbdsetup took over a second, and
    a takeover's start was refused."""
    clock = Clock()
    monkeypatch.setattr(paths, "RESOURCES", str(tmp_path / "resources"))
    monkeypatch.setattr(paths, "PERMITS", str(tmp_path / "permits"))
    monkeypatch.setattr(paths, "STATE", str(tmp_path))
    statefile.write(f"{paths.RESOURCES}/web1-xvda", {"vm": "web1", "peer": "bob"})
    statefile.write(permits.path("web1-xvda"), {"why": permits.TAKEOVER, "current": f"{0xAB:016x}"})
    alone = events.Resource("web1-xvda")
    alone.minor, alone.role, alone.disk, alone.connection = 1000, "Secondary", "UpToDate", "Connecting"

    def one(name: str, timeout: float = 0) -> events.Resource:
        clock.takes("look", look, timeout)
        return alone

    def generation(minor: int, timeout: float = 12.0) -> tuple[int, int]:
        clock.takes("generation", look if "ask" not in clock.allowed else 0, timeout)
        return 0xAB, 0

    def ask(peer: str, verb: str, args: object, timeout: float) -> dict[str, object]:
        clock.allowed["ask"] = timeout
        clock.now += timeout
        raise PeerUnreachable("bob: no route", "")

    monkeypatch.setattr(fence.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(events, "one", one)
    monkeypatch.setattr(verbs, "generation", generation)
    monkeypatch.setattr(client, "ask", ask)
    status, why = fence.fence_peer("web1-xvda")
    assert (status, "holds a permit" in why) == (fence.UNREACHABLE, True)
    assert 1.0 <= clock.allowed["ask"] <= 3.0
    assert clock.now - 100.0 <= 5.0


LINE = "{minor}: cs:{connection} ro:{role}/Unknown ds:{disk}/{peer_disk} A r-----\n"


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ({}, ["web1-xvda", "web2-xvda"]),
        ({"connection": "Connected"}, []),
        ({"peer_disk": "Outdated"}, []),
        ({"role": "Secondary"}, []),
        ({"disk": "Diskless"}, []),
        ({"running": {"web2"}}, ["web2-xvda"]),
        ({"bitmap": 0}, []),
        ({"window": True}, []),
        ({"intents": [{"vm": "web1", "kind": "replace"}]}, ["web2-xvda"]),
        ({"locked": "web2"}, ["web1-xvda"]),
        ({"answer": Refused("bob still sees the connection")}, ["web1-xvda", "web2-xvda"]),
        ({"answer": PeerUnreachable("bob", "")}, ["web1-xvda"]),
    ],
    ids=str,
)
def test_what_is_written_alone_is_asked_about_again(
    monkeypatch: pytest.MonkeyPatch, what: dict[str, Any], asked: list[str]
) -> None:
    seen = []
    state = {"connection": "WFConnection", "role": "Primary", "disk": "UpToDate", "peer_disk": "DUnknown"}
    lines = [
        LINE.format(minor=minor, **{**state, **{k: what[k] for k in state if k in what}}) for minor in (7, 8)
    ]
    monkeypatch.setattr(proc, "text", lambda: "version: 8.4.11\n" + "".join(lines))
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: (0xAB, what.get("bitmap", 0xCD)))
    monkeypatch.setattr(intents, "all_open", lambda: what.get("intents", []))
    monkeypatch.setattr(intents, "is_locked", lambda vm: vm == what.get("locked"))
    monkeypatch.setattr(stepdown, "window_open", lambda name, vm: "window" in what)

    def ask(peer: str, verb: str, args: dict[str, str], timeout: float) -> dict[str, object]:
        assert verb == "outdate" and args["current"] == f"{0xAB:016x}"
        seen.append(args["resource"])
        if "answer" in what:
            raise what["answer"]
        return {}

    monkeypatch.setattr(client, "ask", ask)
    records = [
        {"resource": f"{vm}-xvda", "vm": vm, "peer": "bob", "minor": minor}
        for vm, minor in (("web1", "7"), ("web2", "8"))
    ]
    fence.again(records, what.get("running", {"web1", "web2"}))
    assert seen == asked
