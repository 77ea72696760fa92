"""Permits to start without the peer: who gets one while the guest still runs."""

from pathlib import Path

import pytest

from xenhelper import intents, paths, permits, statefile
from xenhelper.drbd import events, show, verbs
from xenhelper.xen import domains

OWN = (0xAB, 0xCD)  # a generation of its own: writes that the peer lacks


class Host:
    def __init__(self) -> None:
        self.running = [domains.Domain(3, "web1", "-b----", "0")]
        self.generation = OWN
        self.disk = events.Resource("web1-xvda")
        self.disk.minor, self.disk.role, self.disk.disk = 1000, "Primary", "UpToDate"
        self.disk.connection = "Connecting"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    for name in ("RUN", "PERMITS", "INTENTS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(events, "one", {"web1-xvda": made.disk}.get)
    monkeypatch.setattr(show, "one", lambda name: None)
    monkeypatch.setattr(verbs, "generation", lambda minor, timeout=0: made.generation)
    monkeypatch.setattr(domains, "find", lambda vm: made.running)
    return made


def kept(host: Host) -> bool:
    permits.keep_survivor("web1", ["web1-xvda"])
    return permits.valid("web1-xvda", 1000)


def test_a_guest_that_runs_on_alone_may_start_again(host: Host) -> None:
    """Its link was lost in a migration that failed: fence-peer couldn't know who has the newest."""
    assert kept(host)
    host.generation = (0xAB, 0)  # both have been in sync since
    assert not permits.valid("web1-xvda", 1000)
    host.generation = (0xEF, 0xAB)  # and parted again
    assert not permits.valid("web1-xvda", 1000)


@pytest.mark.parametrize("state", ["---ss-", "--p---", "---s--", "-----d"])
def test_a_guest_that_may_have_gone_on_elsewhere_proves_nothing(host: Host, state: str) -> None:
    host.running[0].state = state
    assert not kept(host)


@pytest.mark.parametrize("name", ["web1--migratedaway", "web1--incoming"])
def test_nor_does_a_half_of_a_migration(host: Host, name: str) -> None:
    host.running[0].name = name
    assert not kept(host)


def test_nothing_is_noted_with_the_peer_there_or_without_writes_of_its_own(host: Host) -> None:
    host.disk.connection = "Connected"
    assert not kept(host)
    host.disk.connection, host.disk.role = "Connecting", "Secondary"
    assert not kept(host)
    host.disk.role, host.generation = "Primary", (0xAB, 0)
    assert not kept(host)
    assert statefile.names(paths.PERMITS) == []


def test_nothing_is_noted_in_a_window(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    intents.write("window", "web1", source="alice")
    assert not kept(host)
    intents.remove("window", "web1")
    settings = show.parse(
        "resource web1-xvda {\n    net {\n        allow-two-primaries\tyes;\n    }\n"
        "    _this_host {\n        volume 0 {\n            device\t\t\tminor 1000;\n        }\n    }\n}\n"
    )["web1-xvda"]
    assert settings.two_primaries
    monkeypatch.setattr(show, "one", lambda name: settings)
    assert not kept(host)
