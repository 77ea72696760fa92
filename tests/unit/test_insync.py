"""When disks were last in sync: the times as they stand in records, and what the watcher notes."""

import calendar
import random
import time
from pathlib import Path

import pytest

from xenhelper import insync, paths
from xenhelper.drbd import proc
from xenhelper.drbd.proc import State

NOW = 1_700_000_000.0


def test_a_stamp_is_read_back_to_the_second() -> None:
    order = random.Random(1)
    edges = [0, 951782399, 951782400, 951868800, 4107542399, 4107542400, 253402300799]
    for when in [*edges, *(order.randrange(0, 7258118400) for _ in range(20000))]:
        text = insync.stamp(when)
        assert insync.seconds(text) == when == calendar.timegm(time.strptime(text, insync.FORM)), text


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-02-29T00:00:00Z",
        "2026-01-32T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00", "-026-01-01T00:00:00Z",
        "2026-01-01T00:00:-1Z", "\u0662026-01-01T00:00:00Z", "0000-01-01T00:00:00Z0",
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(text: str) -> None:
    assert insync.seconds(text) is None


def test_the_watcher_notes_the_last_moment_in_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less the time that DRBD needs to notice a dead link."""
    monkeypatch.setattr(paths, "STATE", str(tmp_path))
    records = {"web1-xvda": {"minor": "1000"}}
    tracker = insync.Tracker()
    well = {1000: State("Connected", "Primary/Secondary", "UpToDate/UpToDate")}
    syncing = {1000: State("SyncTarget", "Secondary/Primary", "Inconsistent/UpToDate")}
    alone = {1000: State("WFConnection", "Primary/Unknown", "UpToDate/DUnknown")}
    for at in range(0, 63, 4):
        tracker.tick(well, records, NOW + at)
    assert insync.last("web1-xvda") == NOW + 60 - 15  # at once, then once a minute
    tracker.tick(alone, records, NOW + 64)
    tracker.tick({}, records, NOW + 68)
    assert insync.last("web1-xvda") == NOW + 60 - 15
    tracker.tick(well, records, NOW + 100)
    tracker.tick(well, records, NOW + 112)
    tracker.tick(syncing, records, NOW + 116)
    assert insync.last("web1-xvda") == NOW + 112 - 15


def test_a_real_proc_drbd_counts_as_in_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", str(tmp_path))
    captured = Path(__file__).parent / "captured"
    for name, expected in (
        ("connected-idle", True),
        ("disconnected-guest-writing", False),
        ("syncing", False),
    ):
        text = (captured / f"proc-drbd-{name}-alice.txt").read_text()
        tracker = insync.Tracker()
        tracker.tick(proc.parse(text)[1], {name: {"minor": "1000"}}, NOW)
        assert (insync.last(name) is not None) == expected, name
