"""Everyday mistakes: a clock that was ahead makes no data fresh."""

from pathlib import Path

import pytest

from xenhelper import insync, takeover

RECORD = {"resource": "web1-xvda", "vm": "web1", "minor": "1000", "peer": "bob", "size_bytes": str(1 << 30)}


def test_a_clock_that_was_ahead_makes_no_data_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insync.paths, "STATE", str(tmp_path))
    now = 1_800_000_000.0
    monkeypatch.setattr(insync.time, "time", lambda: now + 10_800)
    insync.write("web1-xvda", now + 10_800, "ok")
    monkeypatch.setattr(insync.time, "time", lambda: now)
    copy = takeover._copy(RECORD, {})
    assert copy.as_of == 0.0
    insync.write("web1-xvda", now, "ok")
    assert insync.last("web1-xvda") == now and takeover._copy(RECORD, {}).as_of == now
