"""Signs of life, of which one is enough to refuse a takeover."""

import pytest

from xenhelper import alive, config
from xenhelper.errors import PeerFailed, PeerUnreachable
from xenhelper.peer import client


def test_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = config.Peer("bob", "192.0.2.2", "10.99.0.2", "10.99.0.1", {})

    def silent(*_: object, **__: object) -> dict[str, object]:
        raise PeerUnreachable("silent")

    def refuses(*_: object, **__: object) -> dict[str, object]:
        raise PeerFailed("unknown request")

    monkeypatch.setattr(client, "ask", silent)
    monkeypatch.setattr(alive, "_ping", lambda address: False)
    monkeypatch.setattr(alive, "_listens", lambda address, port: False)
    assert alive.sign_of_life(peer) == ""
    monkeypatch.setattr(alive, "_listens", lambda address, port: address == "10.99.0.2")
    assert "replication path" in alive.sign_of_life(peer)
    monkeypatch.setattr(alive, "_ping", lambda address: address == "192.0.2.2")
    assert "answers ping" in alive.sign_of_life(peer)
    monkeypatch.setattr(client, "ask", refuses)
    assert "management path" in alive.sign_of_life(peer)


def test_a_ping_and_a_refusal_are_real_signs() -> None:
    assert alive._ping("127.0.0.1")
    assert alive._listens("127.0.0.1", 1)  # nobody there: the kernel says so
