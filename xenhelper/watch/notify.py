"""systemd's notification socket (sd_notify(3)): ready, and still alive."""

import os
import socket


def say(state: str) -> None:
    """``READY=1``, ``WATCHDOG=1``. Does nothing where systemd doesn't listen."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)
    except OSError:
        pass  # systemd kills a watcher that it doesn't hear, and starts it again
