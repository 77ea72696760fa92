"""Alerts: raised once by however many see it, over once, on disk before anybody is told."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from xenhelper import alerts, log, paths, statefile
from xenhelper.alerts import store
from xenhelper.errors import XenhelperError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Folders of its own; what was logged, as (kind, message)."""
    monkeypatch.setattr(paths, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(paths, "LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(paths, "CRASH_AT", str(tmp_path / "crash-at"))
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(log, "event", lambda kind, text, priority=6, **fields: said.append((kind, text)))
    return said


def test_once_however_often_it_is_seen(state: list[tuple[str, str]]) -> None:
    assert alerts.raise_("disk", "web1-xvda", "the disk fails", "mend it", vm="web1", resource="web1-xvda")
    assert not alerts.raise_("disk", "web1-xvda", "the disk has failed", vm="web1")
    (record,) = alerts.active()
    assert (record["what"], record["do"], record["vm"]) == ("the disk fails", "mend it", "web1")
    assert record["seq"] == "1" and store.queued() == [record]
    assert state == [("alert", "the disk fails; mend it")]


def test_over_once_and_not_over_what_never_was(state: list[tuple[str, str]]) -> None:
    assert not alerts.clear("disk", "web1-xvda")
    alerts.raise_("disk", "web1-xvda", "the disk fails")
    assert alerts.clear("disk", "web1-xvda", "UpToDate again")
    assert not alerts.clear("disk", "web1-xvda")
    assert alerts.active() == [] and not alerts.is_active("disk", "web1-xvda")
    (record,) = store.queued()
    assert (record["state"], record["over_what"], record["seq"]) == ("over", "UpToDate again", "2")
    assert [kind for kind, _ in state] == ["alert", "alert-over"]


def test_an_older_look_does_not_raise_what_was_ended_since() -> None:
    alerts.raise_("split-brain", "r", "both wrote")
    looked = time.time()
    alerts.clear("split-brain", "r", "both sides are one again")
    assert not alerts.raise_("split-brain", "r", "both wrote", as_of=looked - 1)
    assert alerts.active() == []
    # a later look counts, and so does one by a clock that has been put back since
    assert alerts.raise_("split-brain", "r", "both wrote", as_of=time.time() + 1)
    alerts.clear("split-brain", "r")
    assert alerts.raise_("split-brain", "r", "both wrote", as_of=looked - 3600)


def test_again_after_it_was_over_is_news() -> None:
    for _ in range(12):
        assert alerts.raise_("connection", "r", "lost")
        assert alerts.clear("connection", "r")
    assert alerts.raise_("connection", "r", "lost")
    record = store.read("connection", "r")
    assert record is not None and record["seq"] == "25" and "over_at" not in record
    assert len(record["times"].split(",")) == store.REMEMBERED


def test_graver_or_other_words_are_news_when_asked_for() -> None:
    alerts.raise_("stale", "r", "30 minutes old", severity=alerts.WARNING)
    assert not alerts.raise_("stale", "r", "31 minutes old", severity=alerts.WARNING)
    assert not alerts.raise_("stale", "r", "fine", severity=alerts.INFO)
    assert alerts.raise_("stale", "r", "a day old", severity=alerts.ERROR)
    assert alerts.raise_("stale", "r", "two days old", severity=alerts.ERROR, again=True)
    assert not alerts.raise_("stale", "r", "two days old", severity=alerts.ERROR, again=True)
    record = store.read("stale", "r")
    assert record is not None and record["seq"] == "3" and len(record["times"].split(",")) == 1


@pytest.mark.parametrize("key", ["a/b", "../x", "ä", "vm 1", "%2F"])
def test_any_key_has_a_file_of_its_own(key: str) -> None:
    alerts.raise_("beneath", key, "x" * 9000 + "\n\x1b[1m ä")
    (name,) = os.listdir(store.path(store.QUEUE))
    assert "/" not in name and name.startswith("beneath.") and store.filename("beneath", key) == name
    (record,) = alerts.active()
    assert "\n" not in record["what"] and len(record["what"]) <= 2000


@pytest.mark.parametrize(
    ("kind", "key"), [("", "k"), ("Disk", "k"), ("disk", ""), ("disk", "a\nb"), ("disk", "ä" * 200)]
)
def test_what_can_be_no_alert(kind: str, key: str) -> None:
    with pytest.raises(XenhelperError):
        alerts.raise_(kind, key, "x")
    with pytest.raises(XenhelperError):
        alerts.raise_("disk", "k", "x", severity="panic")


def test_a_change_after_it_was_told_is_queued_again() -> None:
    alerts.raise_("disk", "r", "the disk fails")
    name = store.filename("disk", "r")
    os.makedirs(store.path(store.KEPT))
    os.rename(store.path(store.QUEUE, name), store.path(store.KEPT, name))
    assert alerts.is_active("disk", "r") and store.queued() == []
    assert not alerts.raise_("disk", "r", "the disk fails") and store.queued() == []
    alerts.clear("disk", "r")
    assert len(store.queued()) == 1 and statefile.names(store.path(store.KEPT)) == []


def test_killed_between_its_two_files_the_newer_counts() -> None:
    alerts.raise_("disk", "r", "the disk fails")
    name = store.filename("disk", "r")
    old = statefile.read(store.path(store.QUEUE, name))
    assert old is not None
    alerts.clear("disk", "r")
    statefile.write(store.path(store.KEPT, name), old)
    assert not alerts.is_active("disk", "r") and len(store.all_records()) == 1


def test_a_broken_record_is_in_nobodys_way() -> None:
    os.makedirs(store.path(store.QUEUE))
    for name, text in {"disk.r": "rubbish", "disk.s": "kind=disk\n", "disk.t": ""}.items():
        Path(store.path(store.QUEUE, name)).write_text(text)
    assert alerts.active() == [] and store.queued() == []
    assert alerts.raise_("disk", "r", "the disk fails") and alerts.is_active("disk", "r")


def _raise(folder: str, results: Any) -> None:
    paths.STATE, paths.LOCKS = f"{folder}/state", f"{folder}/locks"
    results.put(sum(alerts.raise_("disk", f"r{number}", "fails") for number in range(10)))


def test_of_many_processes_one_raises_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_raise, args=(str(tmp_path), results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert sum(results.get(timeout=60) for _ in processes) == 10
    for process in processes:
        process.join(60)
