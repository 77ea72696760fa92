"""ahead: which disks a migration's source lets go of before libxl's `remove`, and which never."""

from typing import Any

import pytest

from xenhelper import ahead, letgo
from xenhelper.errors import Refused

NAME = "/local/domain/7/name"
BASE = "backend/vbd/7/51712"
OTHER = "backend/vbd/7/51728"


class Store:
    """xenstore's values; watches are only noted."""

    def __init__(self) -> None:
        self.watched: list[str] = []
        self.values = {NAME: "web1--migratedaway"}
        for base, resource in ((BASE, "web1-xvda"), (OTHER, "web1-xvdb")):
            self.values |= {f"{base}/params": resource, f"{base}/state": "6", f"{base}/online": "0"}

    def watch(self, path: str, token: str) -> None:
        self.watched.append(path)

    def read(self, path: str) -> "str | None":
        return self.values.get(path)

    def list(self, path: str) -> "list[str]":
        return sorted(
            {key[len(path) + 1 :].split("/")[0] for key in self.values if key.startswith(path + "/")}
        )


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> "list[str]":
    """Resources that were let go."""
    found: list[str] = []
    monkeypatch.setattr(letgo, "remove", lambda disk, *_: found.append(disk.resource))
    return found


def leaving(store: Any, *resources: str) -> ahead.Leaving:
    return ahead.Leaving(store, 7, list(resources or ("web1-xvda", "web1-xvdb")))


def test_each_closed_disk_of_the_window_goes_once(gone: "list[str]") -> None:
    store = Store()
    disks = leaving(store, "web1-xvda")
    assert store.watched == ["backend/vbd/7"]
    disks.look()
    disks.look()
    assert gone == ["web1-xvda"], "the other one is none of this window's"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (NAME, "web1"),  # xl gave the migration up, and the guest goes on here
        (NAME, "web1--incoming"),
        (f"{BASE}/state", "5"),
        (f"{BASE}/online", "1"),  # closed for a moment: a guest that reconnects
        (f"{BASE}/params", "web2-xvda"),
    ],
)
def test_nothing_goes_that_may_be_used_yet(gone: "list[str]", path: str, value: str) -> None:
    store = Store()
    store.values[path] = value
    disks = leaving(store, "web1-xvda")
    disks.look()
    assert gone == []
    if path != f"{BASE}/params":
        store.values |= Store().values
        disks.look()
        assert gone == ["web1-xvda"], "it isn't given up for good"


@pytest.mark.parametrize("error", [Refused("another block script is at work on it"), OSError(28, "full")])
def test_what_fails_is_left_to_the_block_script(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def remove(disk: Any, wait: float, seconds: float) -> None:
        tried.append((disk.resource, wait))
        assert wait + seconds < 10, "the block script waits so long for the lock"
        if disk.resource == "web1-xvda":
            raise error

    monkeypatch.setattr(letgo, "remove", remove)
    disks = leaving(Store())
    disks.look()
    disks.look()
    assert tried == [("web1-xvda", 0.0), ("web1-xvdb", 0.0)]
