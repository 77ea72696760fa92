"""Whether a peer shows any sign of life, on any path. For takeover: one sign is enough to refuse."""

import os
import select
import socket
import struct
import time

from xenhelper.config import Peer
from xenhelper.errors import PeerFailed, PeerUnreachable

_SECONDS = 2.0


def sign_of_life(peer: Peer) -> str:
    """How ``peer`` answered, in a phrase; '' when it didn't, within some 15 seconds."""
    from xenhelper.peer import client

    try:
        client.ask(peer.name, "hello", {}, timeout=5.0)
        return "its xenhelper answers over the management path"
    except PeerFailed:
        return "its xenhelper answers over the management path"
    except PeerUnreachable:
        pass
    for address, path in ((peer.management, "management"), (peer.replication, "replication")):
        if _ping(address):
            return f"{address} ({path} path) answers ping"
        if _listens(address, peer.ssh_port):
            return f"{address} ({path} path) answers on TCP port {peer.ssh_port}"
    return ""


def _listens(address: str, port: int) -> bool:
    """Whether a kernel answers there: a refusal is an answer, too."""
    try:
        with socket.create_connection((address, port), timeout=_SECONDS):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _ping(address: str) -> bool:
    """One ICMP echo a second, for two (RFC 792); False too where that can't be sent."""
    mine = os.getpid() & 0xFFFF
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except OSError:
        return False
    with sock:
        for number in (1, 2):
            body = struct.pack("!BBHHH", 8, 0, 0, mine, number)
            try:
                sock.sendto(body[:2] + struct.pack("!H", _checksum(body)) + body[4:], (address, 0))
            except OSError:
                continue  # no route: the other path may have one
            deadline = time.monotonic() + _SECONDS / 2
            while (left := deadline - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
                packet, (sender, _) = sock.recvfrom(2048)
                reply = packet[(packet[0] & 15) * 4 :]
                if sender == address and reply[:1] == b"\0" and reply[4:6] == struct.pack("!H", mine):
                    return True
    return False
