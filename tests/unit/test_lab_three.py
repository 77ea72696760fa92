"""The lab's third host: what carol's image gets, and the switch between three hosts."""

import socket
from pathlib import Path

import pytest

from tests.lab import carol, hub, image, layers, qemu
from tests.lab.hub import Port
from tests.lab.wait import wait_until

ALICE, BOB, ALL = (bytes((2, 0, 0, 0, 0, number)) for number in (1, 2, 9))


def frame(to: bytes, source: bytes) -> bytes:
    return to + source + b"\x08\0" + bytes(46)


def test_a_switch_learns_and_sends_nothing_back(tmp_path: Path) -> None:
    ports = [Port(tmp_path, "link", number) for number in (1, 2, 3)]
    where: dict[bytes, Port] = {}
    assert hub.forward(ports, where, ports[0], frame(ALL, ALICE)) == ports[1:]
    assert hub.forward(ports, where, ports[1], frame(ALICE, BOB)) == [ports[0]]
    assert hub.forward(ports, where, ports[0], frame(BOB, ALICE)) == [ports[1]]
    assert hub.forward(ports, where, ports[0], frame(ALICE, BOB)) == []  # it stays on its own cable
    for port in ports:
        port.socket.close()


def test_it_runs_beside_and_ends(tmp_path: Path) -> None:
    hosts = []
    for number in (1, 2, 3):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(tmp_path / f"link-{number}.sock"))
        sock.settimeout(30)
        hosts.append(sock)
    hub.start(tmp_path, ["link"], [1, 2, 3])
    try:
        hub.start(tmp_path, ["link"], [1, 2, 3])  # no second one
        wait_until((tmp_path / "link-3.hub").exists, 30, "the switch", every=0.05)
        packet = frame(ALL, ALICE)
        hosts[0].sendto(packet, str(tmp_path / "link-1.hub"))
        assert [hosts[1].recv(2000), hosts[2].recv(2000)] == [packet, packet]
        hosts[2].close()  # a host that is off
        hosts[0].sendto(packet, str(tmp_path / "link-1.hub"))
        assert hosts[1].recv(2000) == packet
    finally:
        hub.stop(tmp_path)
        for sock in hosts:
            sock.close()
    assert hub._pid(tmp_path) is None


def test_carol_has_an_address_and_is_known() -> None:
    text = (image.HERE / "files/lab-net").read_text()
    assert "carol) n=3 ;;\n*) exit 1 ;;" in carol.lab_net(text)
    known = carol.known_hosts(f"{image.NAMES} ssh-ed25519 AAAA lab-host\n")
    assert known.splitlines()[1] == f"{carol.NAMES} ssh-ed25519 AAAA lab-host"
    assert carol.known_hosts(known).count("\n") == 3  # whatever is there, it is the first line's key


def test_with_two_hosts_the_cables_are_as_ever() -> None:
    folder = Path("/lab")
    direct = qemu.Machine("alice", 1, folder / "alice", folder / "image", 22801)
    assert "remote.path=/lab/link-2.sock" in " ".join(direct.command())
    switched = qemu.Machine("carol", 3, folder / "carol", folder / "image", 22803, hub=True)
    command = " ".join(switched.command())
    assert "local.path=/lab/link-3.sock" in command and "remote.path=/lab/link-3.hub" in command


@pytest.mark.parametrize("name", sorted(layers.LAYERS))
def test_only_what_asks_for_it_has_three_hosts(name: str) -> None:
    assert layers.LAYERS[name].hosts == (3 if name == "three" else 2)
