"""Who may promote: design.md's rules for `add`, state by state."""

import itertools

import pytest

from xenhelper import hotplug
from xenhelper.drbd.events import Resource
from xenhelper.errors import CommandFailed, Refused
from xenhelper.hotplug import CONSENT, HAND_OVER, PROMOTE, decide

DISKS = ["UpToDate", "Consistent", "Outdated", "Inconsistent", "Diskless", "Failed", "DUnknown"]
CONNECTIONS = ["Connected", "StandAlone", "Connecting", "NetworkFailure", "Timeout", "Unconnected"]


def resource(**values: object) -> Resource:
    made = Resource("web1-xvda")
    made.minor = 1000
    made.role = "Secondary"
    for key, value in values.items():
        setattr(made, key, value)
    return made


def healthy(**values: object) -> Resource:
    fields: dict[str, object] = {
        "connection": "Connected",
        "disk": "UpToDate",
        "peer_role": "Secondary",
        "peer_disk": "UpToDate",
    }
    return resource(**{**fields, **values})


def test_a_healthy_pair_promotes() -> None:
    assert decide(healthy(), False, False, "bob") == PROMOTE


def test_a_peer_that_resyncs_from_us_is_no_hindrance() -> None:
    assert decide(healthy(peer_disk="Inconsistent"), False, False, "bob") == PROMOTE


def test_an_old_copy_names_the_host_that_has_the_data() -> None:
    with pytest.raises(Refused, match="bob has the data"):
        decide(healthy(disk="Inconsistent"), False, True, "bob")


def test_a_peer_in_use_is_refused_unless_a_migration_comes_in() -> None:
    with pytest.raises(Refused, match="in use on bob; move it with `xl migrate`"):
        decide(healthy(peer_role="Primary"), False, True, "bob")
    assert decide(healthy(peer_role="Primary"), True, False, "bob") == HAND_OVER


def test_a_migration_never_ends_on_a_copy_that_is_not_current() -> None:
    for disk, peer_disk in itertools.product(DISKS, DISKS):
        if disk == peer_disk == "UpToDate":
            continue
        with pytest.raises(Refused):
            decide(healthy(peer_role="Primary", disk=disk, peer_disk=peer_disk), True, True, "bob")


@pytest.mark.parametrize("connection", CONNECTIONS[1:])
def test_a_migration_never_ends_without_the_link(connection: str) -> None:
    for disk, peer_disk, permit in itertools.product(DISKS, DISKS, (False, True)):
        with pytest.raises(Refused):
            decide(resource(connection=connection, disk=disk, peer_disk=peer_disk), True, permit, "bob")


def test_alone_it_needs_a_permit_or_an_outdated_peer_or_consent() -> None:
    alone = {"connection": "Connecting", "disk": "UpToDate", "peer_disk": "DUnknown"}
    assert decide(resource(**alone), False, True, "bob") == PROMOTE
    assert decide(resource(**alone), False, False, "bob") == CONSENT
    assert decide(resource(**{**alone, "peer_disk": "Outdated"}), False, False, "bob") == PROMOTE
    assert decide(resource(**{**alone, "disk": "Consistent"}), False, True, "bob") == CONSENT


@pytest.mark.parametrize("disk", ["Outdated", "Inconsistent", "Diskless", "Failed", "DUnknown"])
def test_alone_with_an_old_copy_it_is_refused_whatever_permit(disk: str) -> None:
    with pytest.raises(Refused, match="takeover"):
        decide(resource(connection="Connecting", disk=disk), False, True, "bob")


def test_whatever_the_state_a_promotion_has_current_data_here() -> None:
    for connection, disk, peer_disk, role, incoming, permit in itertools.product(
        CONNECTIONS, DISKS, DISKS, ["Primary", "Secondary", "Unknown"], (False, True), (False, True)
    ):
        state = resource(connection=connection, disk=disk, peer_disk=peer_disk, peer_role=role)
        try:
            how = decide(state, incoming, permit, "bob")
        except Refused as refused:
            assert "\n" not in str(refused) and "web1-xvda" in str(refused)
            continue
        assert disk == "UpToDate" or (how == CONSENT and disk == "Consistent")
        if connection == "Connected":
            assert role == "Secondary" or (how == HAND_OVER and incoming)
        else:
            assert how == CONSENT or permit or peer_disk in ("Outdated", "Inconsistent", "Diskless", "Failed")


def test_a_look_that_gets_no_answer_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest's reboot mustn't fail because drbdsetup waited for DRBD's global lock once."""
    answers: list[object] = [CommandFailed(["drbdsetup"], None, "", 6.0), healthy()]

    def one(name: str, timeout: float = 10.0) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(hotplug.events, "one", one)
    found = hotplug._look("web1-xvda")
    assert found is not None and found.connected and answers == []
    # what it says isn't asked again
    answers[:] = [CommandFailed(["drbdsetup"], 20, "no", 6.0), healthy()]
    with pytest.raises(CommandFailed):
        hotplug._look("web1-xvda")


@pytest.mark.parametrize(
    ("seen", "seconds", "role"),
    [
        ([("Connected", "Unknown")] * 30 + [("Connected", "Secondary")], 6.0, "Secondary"),
        (
            [("Connecting", "Unknown")] * 5 + [("Connected", "Unknown")] * 20 + [("Connected", "Primary")],
            5.0,
            "Primary",
        ),
        ([("Connected", "Unknown")] * 10 + [("Connecting", "Unknown")] * 90, 2.0, "Unknown"),  # it broke off
        ([("Connected", "Unknown")] * 99, 10.0, "Unknown"),
        ([("Connecting", "Unknown")] * 99, 2.0, "Unknown"),
    ],
)
def test_who_shakes_hands_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, seen: list[tuple[str, str]], seconds: float, role: str
) -> None:
    """In the lab a link that a resync filled took six seconds for it, and a start was refused."""
    clock = [0.0]
    looks = iter([resource(connection=connection, peer_role=peer) for connection, peer in seen])
    monkeypatch.setattr(hotplug.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(hotplug.time, "sleep", lambda pause: clock.__setitem__(0, clock[0] + pause))
    monkeypatch.setattr(hotplug.events, "one", lambda name: next(looks))
    disk = hotplug.Disk.__new__(hotplug.Disk)
    disk.resource = "web1-xvda"
    settled = hotplug._settle(disk, next(looks), 99.0)
    assert settled.peer_role == role and clock[0] == pytest.approx(seconds, abs=0.3)


def test_a_handshake_is_waited_for_within_the_scripts_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [20.0]
    monkeypatch.setattr(hotplug.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(hotplug.time, "sleep", lambda pause: clock.__setitem__(0, clock[0] + pause))
    waits = resource(connection="Connected", peer_role="Unknown")
    monkeypatch.setattr(hotplug.events, "one", lambda name: waits)
    disk = hotplug.Disk.__new__(hotplug.Disk)
    disk.resource = "web1-xvda"
    assert hotplug._settle(disk, waits, 22.0) is waits and clock[0] == pytest.approx(22.0, abs=0.3)
