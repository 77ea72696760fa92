"""The sender's bell: a named pipe in /run/xenhelper. Whoever changes an alert rings it, and so
does a watcher that has seen something which may become one: so the sender sleeps without
looking, and has read a changed configuration before there is something to be told.

Not believed, only a reason to look; one that can't be rung costs time, nothing else.
"""

import os
import select
import stat
import time

from xenhelper import paths

# seconds between two looks while nobody can ring
_DEAF = 1.0


def path() -> str:
    """Where it is."""
    return f"{paths.RUN}/alerts"


def ring() -> None:
    """Wake the sender; does nothing where none listens (systemd starts one when there is
    something to be told). Never raises, never blocks."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path(), flags)
    except OSError:
        return
    try:
        os.write(fd, b"!")
    except OSError:
        pass  # full: it has been rung often enough
    finally:
        os.close(fd)


class Bell:
    """The listener's end: ``fd``, -1 where it can't be made."""

    def __init__(self) -> None:
        self.fd = -1
        self._listen()

    def wait(self, seconds: float) -> None:
        """Until it is rung, or so many seconds have passed."""
        self._listen()
        if self.fd < 0:
            time.sleep(min(seconds, _DEAF))
            return
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            try:
                os.read(self.fd, 65536)
            except OSError:
                pass

    def close(self) -> None:
        """Listen no more."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def _listen(self) -> None:
        """Make it where it isn't there (any more)."""
        if self.fd >= 0 and _same(self.fd):
            return
        self.close()
        try:
            os.makedirs(paths.RUN, mode=0o700, exist_ok=True)
            if os.path.lexists(path()) and not stat.S_ISFIFO(os.lstat(path()).st_mode):
                os.unlink(path())
            if not os.path.lexists(path()):
                os.mkfifo(path(), 0o600)
            # for writing too: with no writer left it would be at its end, and always readable
            self.fd = os.open(path(), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            self.fd = -1


def _same(fd: int) -> bool:
    try:
        there, mine = os.lstat(path()), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
