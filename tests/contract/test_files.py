"""Durable records: there or not there for every process, and after a power cut."""

from __future__ import annotations

from .world import Host, World

FOLDER = "/var/lib/xenhelper/contract"
ONE, OTHER = f"{FOLDER}/one", f"{FOLDER}/other"


def test_a_record_is_read_as_it_was_written(alice: Host, bob: Host) -> None:
    assert alice.call("statefile.names", FOLDER) == []
    assert alice.call("statefile.read", ONE) is None
    alice.call("statefile.remove", ONE)  # nothing there is no error
    alice.call("statefile.write", ONE, {"vm": "web1", "empty": ""})
    assert alice.call("statefile.read", ONE) == {"vm": "web1", "empty": ""}
    alice.call("statefile.write", ONE, {"vm": "web2"})
    alice.call("statefile.write", OTHER, {"vm": "web3"})
    assert alice.call("statefile.read", ONE) == {"vm": "web2"}
    assert alice.call("statefile.names", FOLDER) == ["one", "other"]
    alice.call("statefile.remove", ONE)
    assert alice.call("statefile.names", FOLDER) == ["other"]
    assert bob.call("statefile.read", OTHER) is None


def test_what_was_written_and_removed_stays_so_over_a_power_cut(world: World, alice: Host) -> None:
    for number in range(5):
        alice.call("statefile.write", f"{FOLDER}/old{number}", {"number": str(number)})
    for number in range(5):
        alice.call("statefile.write", f"{FOLDER}/new{number}", {"number": str(number)})
        alice.call("statefile.write", f"{FOLDER}/new{number}", {"number": str(number + 10)})
        alice.call("statefile.remove", f"{FOLDER}/old{number}")
    alice.call("statefile.write", "/run/xenhelper/contract/mark", {"number": "1"})
    world.crash(alice)
    assert alice.call("statefile.names", FOLDER) == [f"new{number}" for number in range(5)]
    for number in range(5):
        assert alice.call("statefile.read", f"{FOLDER}/new{number}") == {"number": str(number + 10)}
    assert alice.call("statefile.read", "/run/xenhelper/contract/mark") is None
