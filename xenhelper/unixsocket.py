"""Unix sockets for hooks, which the ``socket`` module would cost a guest's downtime.

Importing ``socket`` pulls in ``selectors``, ``enum`` and ``collections``: more work than
starting the bare interpreter (callgrind, Python 3.11: 31 and 21 million instructions).
``_socket`` is its C half, which everything of it that is used here comes from.
"""

import _socket

Socket = _socket.socket
STREAM, DATAGRAM = _socket.SOCK_STREAM, _socket.SOCK_DGRAM


def new(kind: int) -> Socket:
    """An unconnected one that no child inherits. It has no context manager: close it."""
    return _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)
