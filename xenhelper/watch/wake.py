"""Wakes the watcher when xenstore's disk backends change, so that it needn't poll fast.

pyxs is made for this, and has no time-outs: it may hang or spin when xenstored drops
its socket. So it sits in a thread that nothing waits for; without it the watcher still
looks at its own pace, and ends itself (systemd starts it again) should it spin.
"""

import os
import threading
import time

from xenhelper import log, paths

BACKENDS = b"/local/domain/0/backend"


class Waker:
    """``fd`` becomes readable on a change. Start it again when :meth:`alive` is False."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin listening; an error there is logged once and leaves only the polling."""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Whether it still listens."""
        return self._thread is not None and self._thread.is_alive()

    def _listen(self) -> None:
        try:
            from pyxs import Client

            with Client(unix_socket_path=paths.XENSTORED_SOCKET) as client, client.monitor() as monitor:
                monitor.watch(BACKENDS, b"xenhelper")
                for _ in monitor.wait():
                    os.eventfd_write(self.fd, 1)
        except Exception as error:
            log.event("note", f"watch: no xenstore events ({error}), looking every few seconds", log.WARNING)
        finally:
            os.eventfd_write(self.fd, 1)  # so that it is noticed at once


class SpinGuard:
    """Whether this process has used more than ``share`` of a CPU over ``seconds``."""

    def __init__(self, seconds: float = 60.0, share: float = 0.8) -> None:
        self._seconds = seconds
        self._share = share
        self._since = time.monotonic(), time.process_time()

    def spins(self) -> bool:
        """Call it now and then."""
        wall, cpu = time.monotonic() - self._since[0], time.process_time() - self._since[1]
        if wall < self._seconds:
            return False
        self._since = time.monotonic(), time.process_time()
        return cpu > self._share * wall
