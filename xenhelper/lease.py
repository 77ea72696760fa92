"""The allocation lock of a host: who may choose numbers on it now.

A lease in a file rather than a held descriptor, since a peer takes it with one request
and gives it back with the next, which another process may serve. It ends by itself after
:data:`SECONDS` (counted on this host's own clock; /run empties at a reboot), and at once
when the local process that took it is gone. Two hosts' leases are taken in the order of
the hosts' names, so two askers never wait for each other.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xenhelper import paths
from xenhelper.errors import Refused, XenhelperError

SECONDS = 60.0
# how long somebody else may go on choosing numbers before we give up: twenty at once
# take turns, each for a few round trips
WAIT = 150.0
_STEP = 0.1


def _path() -> str:
    return paths.LOCKS + "/allocation"


@contextmanager
def _file() -> Iterator[int]:
    """The lease file, for a moment ours alone."""
    os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
    fd = os.open(_path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _holder(fd: int) -> tuple[str, str]:
    """(token, by whom) of the lease in force; ('', '') when there is none."""
    words = os.pread(fd, 400, 0).decode("utf-8", "replace").split(None, 3)
    if len(words) < 4:
        return "", ""
    token, until, pid, who = words
    try:
        if float(until) <= time.monotonic():
            return "", ""
        if pid != "0" and not os.path.exists(f"/proc/{int(pid)}"):
            return "", ""
    except ValueError:
        return "", ""
    return token, who.strip()


def _store(fd: int, text: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode(), 0)


def take(who: str, wait: float = WAIT, local: bool = True) -> str:
    """Take this host's lease and return its token. Raises Refused after ``wait`` seconds.

    ``local``: it also ends with this process (not so when a peer holds it through us).
    """
    deadline = time.monotonic() + wait
    while True:
        with _file() as fd:
            token, holder = _holder(fd)
            if not token:
                token = os.urandom(12).hex()
                pid = os.getpid() if local else 0
                _store(fd, f"{token} {time.monotonic() + SECONDS:.3f} {pid} {who}\n")
                return token
        if time.monotonic() >= deadline:
            raise Refused(
                f"{os.uname().nodename}: numbers are being chosen by {holder}", "try again in a minute"
            )
        time.sleep(_STEP)


@contextmanager
def used(token: str) -> Iterator[None]:
    """Do the last thing that the lease was for, then let go of it.

    Raises XenhelperError, and does nothing, when it has run out meanwhile.
    """
    with _file() as fd:
        if not token or _holder(fd)[0] != token:
            raise XenhelperError(
                f"{os.uname().nodename}: choosing numbers took longer than {SECONDS:g} s", "try again"
            )
        yield
        _store(fd, "")


def give_back(token: str) -> None:
    """Let go of it unused; no error when it has run out."""
    with _file() as fd:
        if token and _holder(fd)[0] == token:
            _store(fd, "")
