"""What wakes the watcher: a line of ``drbdsetup events2``, or a change in xenstore.

Neither is believed: a bell only says that it is worth a look. So a line that is lost or
garbled does no harm, and while a bell is out of order the watcher looks at its own pace.
"""

import os
import select
import signal
import time

from xenhelper import log
from xenhelper.errors import XenhelperError
from xenhelper.run import start
from xenhelper.watch.wake import Waker

EVENTS = ["drbdsetup", "events2"]
# seconds before another try: the module may not be loaded yet, xenstored may be restarting
AGAIN_FIRST, AGAIN_MOST = 2.0, 60.0


class Events:
    """``drbdsetup events2`` as a child whose output is only counted."""

    def __init__(self) -> None:
        self._pid = 0
        self.fd = -1
        self._next = 0.0
        self._wait = AGAIN_FIRST
        self._said = False

    def alive(self) -> bool:
        """Whether it runs."""
        return self.fd >= 0

    def keep_up(self, now: float) -> None:
        """Start it where it doesn't run and it is time to try."""
        if self.fd >= 0 or now < self._next:
            return
        self._next = now + self._wait
        try:
            self._pid, self.fd = start(EVENTS)
        except (XenhelperError, OSError) as error:
            self._failed(str(error))

    def drain(self) -> bool:
        """Read all there is. False when it ended."""
        while True:
            try:
                block = os.read(self.fd, 65536)
            except BlockingIOError:
                self._wait, self._said = AGAIN_FIRST, False
                return True
            except OSError:
                block = b""
            if not block:
                self.stop()
                self._failed("it ended")
                return False

    def stop(self) -> None:
        """End it."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        try:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def _failed(self, why: str) -> None:
        self._next = time.monotonic() + self._wait
        self._wait = min(self._wait * 2, AGAIN_MOST)
        if not self._said:
            log.event("note", f"watch: no DRBD events ({why}); looking every few seconds", log.WARNING)
        self._said = True


class Bells:
    """Both of them, and the wait for either."""

    def __init__(self) -> None:
        self.events, self.waker = Events(), Waker()
        self._next = 0.0

    def keep_up(self) -> bool:
        """Start what doesn't run; whether both can ring."""
        now = time.monotonic()
        self.events.keep_up(now)
        if not self.waker.alive() and now >= self._next:
            self._next = now + AGAIN_MOST
            self.waker.start()
        return self.events.alive() and self.waker.alive()

    def wait(self, seconds: float) -> tuple[bool, bool]:
        """Until one rings or so many seconds have passed: (DRBD's, xenstore's) rang."""
        poll = select.poll()
        poll.register(self.waker.fd, select.POLLIN)
        if self.events.alive():
            poll.register(self.events.fd, select.POLLIN)
        rang = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        if self.waker.fd in rang:
            os.read(self.waker.fd, 8)
        if self.events.alive() and self.events.fd in rang:
            self.events.drain()
            return True, self.waker.fd in rang
        return False, self.waker.fd in rang
