"""Closing a migration's window: which disk first."""

from pathlib import Path

import pytest

from xenhelper import paths, steady, window
from xenhelper.drbd import events, show


def test_what_can_be_closed_isnt_kept_waiting_by_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soak's seed 7075161: xl gives up while one disk has two Primaries and the other host
    is about to become Primary of the second, too: with the guest going on here it mustn't."""
    for name in ("RESOURCES", "LOCKS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    states = {name: events.Resource(name) for name in ("web1-xvda", "web1-xvdb")}
    for state in states.values():
        state.role, state.disk, state.connection, state.peer_role = (
            "Primary",
            "UpToDate",
            "Connected",
            "Secondary",
        )
    states["web1-xvda"].peer_role = "Primary"
    open_: dict[str, show.Settings] = {}
    for name in states:
        open_[name] = show.Settings(name)
        open_[name].two_primaries, open_[name].remote = True, "ipv4:10.99.0.2:7800"
    done: list[str] = []

    def close(name: str, wanted: str) -> None:
        done.append(f"close {name}")
        open_[name].two_primaries, open_[name].protocol = False, wanted

    def wait(seconds: float) -> None:
        done.append("wait")
        states["web1-xvda"].peer_role = "Secondary"

    monkeypatch.setattr(events, "one", states.get)
    monkeypatch.setattr(show, "one", open_.get)
    monkeypatch.setattr(steady, "close", close)
    monkeypatch.setattr(window.time, "sleep", wait)
    assert window.close_all(list(states), 5.0) == []
    assert done == ["close web1-xvdb", "wait", "close web1-xvda"]
