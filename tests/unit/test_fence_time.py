"""The fence-peer handler's five seconds, on a host where each look at the kernel takes its time."""

from pathlib import Path

import pytest

from xenhelper import fence, paths, permits, statefile
from xenhelper.drbd import events, verbs
from xenhelper.errors import PeerUnreachable
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
