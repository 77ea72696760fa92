"""Whether a HOST that somebody typed is a known peer, resolved as ssh resolves it."""

from xenhelper.config import Peer
from xenhelper.errors import CommandFailed
from xenhelper.run import run


def is_host(typed: str, peer: Peer) -> bool:
    """``typed``: a short name, an FQDN, an ssh alias, an address, any with ``user@``."""
    name = typed.rsplit("@", 1)[-1]
    if not name or name.startswith("-"):
        return False
    try:
        answer = run(["ssh", "-G", "--", name], timeout=5).stdout
        for line in answer.splitlines():
            if line.startswith("hostname "):
                name = line.split(None, 1)[1].strip()
    except CommandFailed:
        pass
    known = {peer.name, peer.management, peer.replication}
    if name in known or (name.split(".")[0] == peer.name.split(".")[0] and not _is_address(name)):
        return True
    ours = _addresses(peer.management) | _addresses(peer.replication) | {peer.management, peer.replication}
    return bool(_addresses(name) & ours)


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def _addresses(name: str) -> "set[str]":
    import socket  # a tenth of what the shim imports, and a plain name needs it not

    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(name, 22, type=socket.SOCK_STREAM)}
    except OSError:
        return set()
