"""A migration's ssh whose other end is gone.

`xl migrate` and `xl migrate-receive` talk through an ssh connection without keepalive.
When one host dies while the other waits for its word, the connection stays open there
for as long as TCP has nothing to send, two hours at least: a source would keep its guest
suspended, a destination its half-received copy. Once that host is back it can say
whether its end still exists. If not, the ssh here is ended, and xl goes the way that it
goes when ssh fails: what arrived before is still read, so an answer that was under way
isn't lost by this.
"""

import os
import signal
import socket
import struct
import time

from xenhelper import log, paths
from xenhelper.errors import PeerFailed, PeerUnreachable, UsageError
from xenhelper.peer import client
from xenhelper.xen import domains

# states of include/net/tcp_states.h in which the kernel may still pass on data
_OVER = {"06", "07"}  # TIME_WAIT, CLOSE
_ESTABLISHED = "01"


class Connection:
    """One TCP connection as this host sees it."""

    __slots__ = ("inode", "local", "remote", "state")

    def __init__(self, local: "tuple[str, int]", remote: "tuple[str, int]", state: str, inode: str) -> None:
        self.local = local
        self.remote = remote
        self.state = state
        self.inode = inode


def drop(peers: "list[str]", dry_run: bool = False) -> "list[str]":
    """End migrations' ssh whose other end one of ``peers`` hasn't any more; a line for each."""
    done = []
    for pid, connection in _connections():
        if _local(connection.remote[0]):
            continue  # that address is here, too: it doesn't tell which host is meant
        peer = next((peer for peer in peers if _gone(peer, connection)), "")
        if not peer:
            continue
        what = f"a migration's ssh (pid {pid}) has no other end on {peer} any more"
        if not dry_run:
            if not _end(pid, connection):
                continue
            log.event("half-open", f"{what}; ended", log.NOTICE)
        done.append(what)
    return done


def serve_connection(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``connection``: whether ``address`` is this host's (``mine``), and whether a
    connection of it from ``port`` to the other end's ``to`` exists (``open``)."""
    address, port, to = str(args["address"]), args["port"], args["to"]
    if not _valid(address):
        raise UsageError(f"{address[:60]!r} is no address")
    ends = [(c.local, c.remote[1]) for c in _table() if c.state not in _OVER]
    return {"mine": _local(address), "open": ((address, port), to) in ends}


def _gone(peer: str, connection: Connection) -> bool:
    address, port = connection.remote
    args: "dict[str, object]" = {"address": address, "port": port, "to": connection.local[1]}
    try:
        answer = client.ask(peer, "connection", args, timeout=8.0)
    except (PeerFailed, PeerUnreachable):
        return False
    return answer.get("mine") is True and answer.get("open") is False


def _end(pid: int, connection: Connection) -> bool:
    """SIGTERM, then SIGKILL; whether it is that connection's process, and gone."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if connection.inode not in _sockets(pid):
            return False  # another process by that number
        for how, wait in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            signal.pidfd_send_signal(handle, how)
            end = time.monotonic() + wait
            while time.monotonic() < end:
                if connection.inode not in _sockets(pid):
                    return True
                time.sleep(0.1)
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)
    return False


def _connections() -> "list[tuple[int, Connection]]":
    """The ssh processes of migrations at work here, with their connections."""
    found: "dict[int, Connection]" = {}
    table: "dict[str, Connection] | None" = None
    for pid in _ssh_of_migrations():
        if table is None:
            table = {c.inode: c for c in _table() if c.state == _ESTABLISHED}
        for inode in _sockets(pid):
            if inode in table:
                found[pid] = table[inode]
    return sorted(found.items())


def _ssh_of_migrations() -> "list[int]":
    """`ssh` below an `xl migrate`, and the `sshd` above an `xl migrate-receive`."""
    senders, receivers = set(), set()
    for name, words in domains.xl_processes():
        if "migrate" in words:
            senders.add(int(name))
        elif "migrate-receive" in words:
            receivers.add(int(name))
    found = {above for pid in receivers if (above := _ancestor(pid, "sshd"))}
    if senders:
        for pid in map(int, filter(str.isdigit, os.listdir(paths.ROOT + "/proc"))):
            if _stat(pid)[0] == "ssh" and senders & set(_line(pid)):
                found.add(pid)
    return sorted(found)


def _ancestor(pid: int, name: str) -> int:
    """The nearest process above whose name begins so; 0: none."""
    for above in _line(pid):
        # sshd-session since OpenSSH 9.8
        if _stat(above)[0].startswith(name):
            return above
    return 0


def _line(pid: int) -> "list[int]":
    """The processes above, the nearest first, without init."""
    found: "list[int]" = []
    while len(found) < 20:
        pid = _stat(pid)[1]
        if pid <= 1:
            break
        found.append(pid)
    return found


def _stat(pid: int) -> "tuple[str, int]":
    """Name and parent; ('', 0) once it has ended."""
    try:
        with open(f"{paths.ROOT}/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return "", 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, int(rest.split()[1])


def _sockets(pid: int) -> "set[str]":
    """Inodes of the process's sockets."""
    folder = f"{paths.ROOT}/proc/{pid}/fd"
    found = set()
    try:
        for name in os.listdir(folder):
            target = os.readlink(f"{folder}/{name}")
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found


def _table() -> "list[Connection]":
    """This host's TCP connections (Documentation/networking/proc_net_tcp.rst)."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"{paths.ROOT}/proc/net/{name}", encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            found.append(Connection(_end_of(words[1]), _end_of(words[2]), words[3], words[9]))
    return found


def _end_of(text: str) -> "tuple[str, int]":
    """``0100007F:0016`` -> ("127.0.0.1", 22): words of 32 bits in the host's order."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    if len(raw) == 16 and raw[:12] == bytes(10) + b"\xff\xff":
        raw = raw[12:]  # IPv4 on a socket of IPv6
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def _valid(address: str) -> bool:
    try:
        socket.inet_pton(_family(address), address)
    except (OSError, ValueError):
        return False
    return True


def _family(address: str) -> "socket.AddressFamily":
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _local(address: str) -> bool:
    """Whether this host has that address: only then can a socket be bound to it."""
    try:
        with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
