"""A comparison makes way: for a migration, or any other change of that resource.

Stopping loses nothing: what was compared is on record, and it goes on from there. It runs
in the kernel, so it is stopped there, whatever became of the process that began it.
"""

import fcntl
import os
import time

from xenhelper import log, names, paths, statefile
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import Busy, CommandFailed, PeerFailed, PeerUnreachable, Refused, XenhelperError

SOURCE, TARGET = "VerifyS", "VerifyT"
RUNNING = (SOURCE, TARGET)
APART = 60.0  # seconds between two steps of a repair, at the most
_WAIT = 10.0  # seconds: it ends with the next answers that arrive


def marks() -> str:
    """The folder in which each comparison of this host has its mark while it runs."""
    return paths.RUN + "/verifying"


def repairing(name: str) -> str:
    """The mark that a repair has taken ``name`` apart and is about to connect it again."""
    return f"{paths.RUN}/repairing/{names.check_resource(name)}"


def apart_for_repair(name: str) -> bool:
    """Whether it was taken apart less than :data:`APART` seconds ago: the reconciler leaves
    it to the repair, and connects what a repair that was killed left after that."""
    record = statefile.read(repairing(name))
    try:
        age = time.monotonic() - float(record["at"]) if record else APART
    except (KeyError, ValueError):
        return False
    return 0 <= age < APART


def lock() -> int:
    """This host's one comparison; the descriptor lets go. Raises Busy."""
    os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
    fd = os.open(f"{paths.LOCKS}/verify", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Busy(
            f"{os.uname().nodename}: another verify is under way, and one at a time is compared",
            "wait for it to end; `xenhelper status` shows it",
        ) from None
    return fd


def make_way(name: str) -> None:
    """End a comparison of ``name``, whichever host began it. One that the other host began
    and doesn't end now does no harm (DRBD locks what it compares); that is logged."""
    state = events.one(name)
    if state is None or state.replication not in RUNNING:
        return
    if state.replication == SOURCE:
        here(name)
        return
    from xenhelper.peer import client

    peer = (statefile.read(f"{paths.RESOURCES}/{name}") or {}).get("peer", "")
    try:
        client.ask(peer, "verify-stop", {"resource": name}, timeout=_WAIT + 5.0)
    except (PeerUnreachable, PeerFailed) as error:
        log.event("note", f"{name}: {peer} goes on comparing: {error}", log.WARNING, resource=name)


def here(name: str) -> None:
    """End the one that this host began, and wait for it. Raises XenhelperError."""
    deadline = time.monotonic() + _WAIT
    while True:
        state = events.one(name)
        if state is None or state.replication != SOURCE:
            return
        if time.monotonic() > deadline:
            raise Refused(f"{name}: its verify doesn't end", "`xenhelper status` shows it; try again")
        verbs.verify(state.minor, 0, 1)
        time.sleep(0.2)


def serve_stop(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``verify-stop``: ``peer`` is about to change a resource that it shares with us."""
    name = names.check_resource(args["resource"])
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name}: not a resource shared with {peer}")
    here(name)
    return {}


def full_speed(name: str, vm: str) -> None:
    """The resource file's own settings again: the speed limit was for the comparison."""
    bringup.adm(vm, "disk-options", names.check_resource(name))
    statefile.remove(f"{marks()}/{name}")


def tidy() -> None:
    """What a killed verify left here: the comparison ends, the speed limit goes."""
    left = statefile.names(marks())
    if not left:
        return
    try:
        held = lock()
    except Busy:
        return  # it isn't dead
    try:
        for name in left:
            record = statefile.read(f"{paths.RESOURCES}/{name}")
            if record is None or events.one(name) is None:
                statefile.remove(f"{marks()}/{name}")
                continue
            try:
                here(name)
                full_speed(name, record["vm"])
            except (CommandFailed, XenhelperError) as error:
                log.event("failed", f"{name}: after a verify that was killed: {error}", log.WARNING)
    finally:
        os.close(held)
