"""Our xenstore client against a server on a real socket: bounded, whole, clean."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fakes.xenstored import FakeXenstored
from xenhelper import paths
from xenhelper.xen.xenstore import Xenstore, XenstoreError, clean


@pytest.fixture
def xenstored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeXenstored]:
    path = str(tmp_path / "s" / "socket")
    monkeypatch.setattr(paths, "XENSTORED_SOCKET", path)
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    server = FakeXenstored(path, {"a/b": "1", "a/c/d": "2"})
    yield server
    server.close()


def test_reads_lists_writes_and_removes(xenstored: FakeXenstored) -> None:
    with Xenstore() as store:
        assert store.read("a/b") == "1"
        assert store.read("a/nothing") is None
        assert store.list("a") == ["b", "c"]
        store.write("a/b", "x")
        store.remove("a/c/d")
        store.remove("a/c/d")
        assert xenstored.tree == {"a/b": "x"}


def test_writes_several_in_one_transaction_and_again_on_conflict(xenstored: FakeXenstored) -> None:
    xenstored.conflicts = 3
    with Xenstore() as store:
        store.write_all({"p/1": "one", "p/2": "two"})
    assert xenstored.tree["p/1"] == "one"
    assert xenstored.conflicts == 0


def test_gives_up_on_endless_conflicts(xenstored: FakeXenstored) -> None:
    xenstored.conflicts = 1000
    with Xenstore() as store, pytest.raises(XenstoreError):
        store.write_all({"p/1": "one"})


def test_a_silent_xenstored_costs_bounded_time(xenstored: FakeXenstored) -> None:
    with Xenstore(timeout=0.3) as store:
        xenstored.silent = True
        started = time.monotonic()
        with pytest.raises(XenstoreError, match="no answer"):
            store.read("a/b")
        assert time.monotonic() - started < 2


def test_a_xenstored_that_hangs_up_is_an_error(xenstored: FakeXenstored) -> None:
    with Xenstore(timeout=2) as store:
        xenstored.hang_up = True
        with pytest.raises(XenstoreError):
            store.read("a/b")


def test_watch_events_wait_behind_replies(xenstored: FakeXenstored) -> None:
    with Xenstore() as store:
        store.watch("@releaseDomain", "t")
        assert store.next_event(2) == ("@releaseDomain", "t")
        assert store.next_event(0.1) is None
        xenstored.fire("@releaseDomain")
        assert store.read("a/b") == "1"
        assert store.next_event(2) == ("@releaseDomain", "t")


def test_no_xenstored_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "XENSTORED_SOCKET", str(tmp_path / "none"))
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    with pytest.raises(XenstoreError, match="dom0"):
        Xenstore()


def test_values_become_one_printable_line() -> None:
    # pyxs raises ValueError on these, in whoever reads hotplug-error with it
    assert clean("a\nb\té") == "a b ?"
    assert len(clean("x" * 10000)) <= 2000


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 4000])
def test_odd_paths_are_refused(xenstored: FakeXenstored, path: str) -> None:
    with Xenstore() as store, pytest.raises(XenstoreError):
        store.read(path)
