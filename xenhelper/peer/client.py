"""Ask a peer: through the link's socket (no fork, no ssh), else over an ssh of one's own.

Used by hooks while a guest waits, so it keeps to its time: connecting, asking and the
answer together take no longer than ``timeout``.
"""

import os
import time

from xenhelper import names, paths, unixsocket
from xenhelper.errors import PeerUnreachable, UsageError
from xenhelper.peer import messages


def ask(peer: str, verb: str, args: "dict[str, object]", timeout: float = 10.0) -> "dict[str, object]":
    """What ``verb`` returned on ``peer`` within ``timeout`` seconds.

    Raises PeerUnreachable (nobody answered in time; the request may still have been
    carried out, but isn't begun any more once the time is over) or PeerFailed (the
    peer's own line, with its exit code: 3 when it refused).
    """
    if not names.valid_host(peer):
        raise UsageError(f"{peer[:80]!r} can't be a host's name")
    if os.path.exists(paths.CRASH_AT):
        paths.crash("before")
    deadline = time.monotonic() + timeout
    sock = unixsocket.new(unixsocket.STREAM)
    try:
        sock.settimeout(timeout)
        try:
            sock.connect(messages.socket_path(peer))
        except OSError:
            # no link here: the unit isn't running (yet)
            from xenhelper.peer import oneshot

            answer = oneshot.ask(peer, verb, args, deadline)
        else:
            answer = _over_link(sock, peer, verb, args, deadline)
    finally:
        sock.close()
    if os.path.exists(paths.CRASH_AT):
        paths.crash("after")
    return messages.result(peer, answer)


def _over_link(
    sock: unixsocket.Socket, peer: str, verb: str, args: "dict[str, object]", deadline: float
) -> "dict[str, object]":
    received = b""
    try:
        # the link gives up a little earlier than we do, so that its reason arrives
        left = max(0.1, deadline - time.monotonic() - 0.2)
        sock.sendall(messages.encode({"verb": verb, "args": args, "timeout": left}))
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            block = sock.recv(65536)
            if not block:
                raise PeerUnreachable(f"{peer} can't be asked: the link here ended")
            received += block
            if len(received) > messages.MAX_BYTES:
                raise PeerUnreachable(f"{peer} can't be asked: its answer is too long")
    except TimeoutError:
        raise PeerUnreachable(f"{peer} gave no answer in time over the management path") from None
    except OSError as error:
        raise PeerUnreachable(f"{peer} can't be asked: {os.strerror(error.errno or 0)}") from error
    return messages.decode(received)
