"""A VM migrates within its pair: the refusal names the way to another host."""

from types import SimpleNamespace
from typing import Any

import pytest

from xenhelper import config, destination, hosts, migrate, statefile
from xenhelper.errors import Refused


def peer(name: str, number: int) -> config.Peer:
    return config.Peer(name, f"192.168.1.{number}", f"10.99.0.{number}", "10.99.0.1", {"vg0": "vg0"})


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """web1 runs on alice, its copy is on bob; carol is a peer, too."""
    peers = {"bob": peer("bob", 2), "carol": peer("carol", 3)}
    settings = config.Config("alice", "a", "b", peers, ("vg0",), (), (), (), (1, 2), (1, 2), "A")
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(config, "check_name", lambda settings, name: None)
    monkeypatch.setattr(destination, "xen_info", dict)
    monkeypatch.setattr(destination, "can_migrate", lambda kind, info: "")
    monkeypatch.setattr(statefile, "read", lambda path: {"peer": "bob"})
    monkeypatch.setattr(hosts, "is_host", lambda typed, known: typed == known.name)
    return SimpleNamespace(vm="web1", name="web1", pci=(), disks=(), kind="pvh", resources=["web1-xvda"])


def test_another_peer_can_be_given_the_copy(domain: Any) -> None:
    with pytest.raises(Refused, match="web1 can't move to carol: its disks are on alice and bob") as refused:
        migrate._checked(domain, "carol")
    assert "`xl migrate web1 bob`; `xenhelper replicate web1 --peer carol` gives" in refused.value.do


def test_a_stranger_has_to_become_a_peer_first(domain: Any) -> None:
    with pytest.raises(Refused, match="can't move to dave") as refused:
        migrate._checked(domain, "dave")
    assert "--peer HOST`" in refused.value.do and "`xenhelper setup HOST`" in refused.value.do
