"""What `xl migrate` says of this host's own disks, before anybody else is asked."""

from pathlib import Path

import pytest

from xenhelper import migrate
from xenhelper.drbd import events
from xenhelper.errors import Refused

CAPTURED = Path(__file__).parent / "captured"


def test_each_disk_that_is_not_in_sync_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the other host has noticed the cut of one of them only."""
    text = (CAPTURED / "events2-now-statistics-disconnected-guest-writing-alice.txt").read_text()
    monkeypatch.setattr(events, "snapshot", lambda *_: events.parse(text))
    with pytest.raises(Refused) as refused:
        migrate._all_in_sync("web1", "bob", ["web1-xvda", "web1-xvdb", "web1-xvdc"])
    for words in (
        "web1 can't move to bob",
        "web1-xvda (<web1-xvda Connecting Primary/Unknown",
        "web1-xvdb (<web1-xvdb Connecting Primary/Unknown",
        "web1-xvdc (not up)",
    ):
        assert words in str(refused.value)


def test_disks_in_sync_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CAPTURED / "events2-now-statistics-guest-writing-alice.txt").read_text()
    monkeypatch.setattr(events, "snapshot", lambda *_: events.parse(text))
    migrate._all_in_sync("web1", "bob", ["web1-xvda", "web1-xvdb"])
