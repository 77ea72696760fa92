"""Intents: what a multi-step change is about to do, on disk before it does it.

An intent is a record ``/var/lib/xenhelper/intents/KIND-VM`` on each host that the
change touches. While somebody works on it, they hold the VM's lock (``/run``, so a
reboot frees it); the reconciler acts only on intents whose lock is free.
"""

import fcntl
import os
import time

from xenhelper import paths, statefile
from xenhelper.errors import Refused

KINDS = ("replicate", "window", "takeover", "recover", "forget", "grow", "tune", "import", "replace")


def path(kind: str, vm: str) -> str:
    """Where the intent of this kind for ``vm`` is kept."""
    return f"{paths.INTENTS}/{kind}-{vm}"


def write(kind: str, vm: str, **fields: str) -> None:
    """Write (or replace) an intent durably. ``kind``, ``vm`` and ``since`` are added."""
    old = statefile.read(path(kind, vm)) or {}
    since = old.get("since", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    statefile.write(path(kind, vm), {"kind": kind, "vm": vm, "since": since, **fields})


def read(kind: str, vm: str) -> "dict[str, str] | None":
    """The intent, or None."""
    return statefile.read(path(kind, vm))


def remove(kind: str, vm: str) -> None:
    """The change is done or undone here."""
    statefile.remove(path(kind, vm))


def all_open() -> "list[dict[str, str]]":
    """Every intent on this host."""
    found = (statefile.read(f"{paths.INTENTS}/{name}") for name in statefile.names(paths.INTENTS))
    return [record for record in found if record is not None]


def lock(vm: str, wait: float = 10.0, inherit: bool = False, who: str = "a change") -> int:
    """Take ``vm``'s lock and return its descriptor; closing it (or dying) lets go.

    ``inherit`` hands it on to a program started later (the real xl), ``who`` is what
    others read of the holder. Raises Refused when somebody else holds it for longer
    than ``wait`` seconds.
    """
    os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
    fd = os.open(f"{paths.LOCKS}/vm-{vm}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
                os.close(fd)
                raise Refused(
                    f"{vm}: another change is under way" + (f" ({holder})" if holder else ""),
                    "wait for it to end; `xenhelper status` shows it",
                ) from None
            time.sleep(0.1)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{who}, pid {os.getpid()}\n".encode(), 0)
    os.set_inheritable(fd, inherit)
    return fd


def holder(vm: str) -> "str | None":
    """Who is at work on ``vm`` on this host right now (``who`` of :func:`lock` and a pid);
    None when nobody is."""
    os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
    fd = os.open(f"{paths.LOCKS}/vm-{vm}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
    finally:
        os.close(fd)


def is_locked(vm: str) -> bool:
    """Whether somebody is at work on ``vm`` on this host right now."""
    return holder(vm) is not None
