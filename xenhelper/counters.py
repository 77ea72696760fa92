"""Numbers that only grow, for the metrics: ``/var/lib/xenhelper/counters``.

Kept per host. One that can't be written is passed over: nothing depends on it.
"""

import fcntl
import os
import time

from xenhelper import log, paths, statefile
from xenhelper.errors import XenhelperError

MIGRATIONS, MIGRATIONS_FAILED, MIGRATION_SECONDS = "migrations", "migrations_failed", "migration_seconds"


def path() -> str:
    """Where they are kept."""
    return paths.STATE + "/counters"


def read() -> "dict[str, float]":
    """All of them; what isn't a number is left out."""
    try:
        record = statefile.read(path()) or {}
    except (XenhelperError, OSError):
        return {}
    found = {}
    for key, text in record.items():
        try:
            found[key] = float(text)
        except ValueError:
            continue
    return found


def _lock(fd: int) -> None:
    """Raises BlockingIOError when another holds it for a second."""
    for _ in range(20):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def add(**amounts: float) -> None:
    """Add to some of them. Never raises."""
    try:
        os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
        fd = os.open(f"{paths.LOCKS}/counters", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd)
            now = read()
            for key, amount in amounts.items():
                now[key] = now.get(key, 0.0) + amount
            statefile.write(path(), {key: f"{value:.15g}" for key, value in now.items()})
        finally:
            os.close(fd)
    except (XenhelperError, OSError) as error:
        log.event("note", f"a counter isn't kept: {error}", log.WARNING)
