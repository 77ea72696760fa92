"""``drbd-event KIND``: DRBD's other handlers, called by drbdadm with DRBD_RESOURCE set.

The kernel's worker waits for the ``local-io-error`` handler, and changing the protocol
waits for that worker: so the handler answers at once, and a child of its own does the work.
What only one kind needs is imported there: the alert waits for each import.
"""

import os
import sys
import time

from xenhelper import alerts, intents, log, names, paths, statefile
from xenhelper.drbd import handlers
from xenhelper.errors import EXIT_USAGE, XenhelperError

# seconds in which `xenhelper verify`, if it was that, has noted where
_RECORDED = 5.0
# what else DRBD calls; each stays raised until both copies are one again (watch/judge.py)
_SAYS = {
    "pri-lost": "this host was Primary, and DRBD goes on with {peer}'s data",
    "pri-lost-after-sb": "after a split brain DRBD goes on with {peer}'s data while this host is Primary",
    "pri-on-incon-degr": "this host is Primary, its copy isn't whole, and {peer} can't be reached",
}


def main(argv: "list[str]") -> int:
    """One event. Returns 0 unless it was called wrongly: DRBD doesn't look at it."""
    kind = argv[1] if len(argv) == 2 else ""
    name = os.environ.get("DRBD_RESOURCE", "")
    if kind not in handlers.EVENTS or not names.valid_resource(name):
        print(f"usage (by drbdadm): DRBD_RESOURCE=R drbd-event {'|'.join(handlers.EVENTS)}", file=sys.stderr)
        return EXIT_USAGE
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None:
        return 0  # not ours
    if kind == "split-brain":
        from xenhelper import splitbrain

        splitbrain.mark(name, record.get("vm", ""), "DRBD, when both met again")
        return 0
    if kind == "local-io-error":
        log.event("io-error", _failed(name, record), log.ERROR, vm=record.get("vm", ""), resource=name)
    if _detached():
        return 0
    if kind == "local-io-error":
        # the alert's file may be on the disk that fails: nothing waits for it
        if os.fork() == 0:
            _alert(kind, name, record)
            os._exit(0)
        try:
            synchronous(name, record)
        except (XenhelperError, OSError) as error:
            log.event("failed", f"{name}: not switched to protocol C: {error}", log.ERROR, resource=name)
    else:
        _alert(kind, name, record)
    os._exit(0)


def _failed(name: str, record: "dict[str, str]") -> str:
    return (
        f"{name}: the volume here fails; {record.get('vm')} goes on with {record.get('peer')}'s copy, "
        f"synchronously: `xl shutdown` it and `xl create` it there; or repair the volume, then "
        f"`drbdadm attach {name}`"
    )


def _alert(kind: str, name: str, record: "dict[str, str]") -> None:
    vm, peer = record.get("vm", ""), record.get("peer", "the other host")
    if kind == "local-io-error":
        what, _, do = _failed(name, record).partition(": `")
        alerts.try_raise("disk", name, what, f"`{do}", vm, name, alerts.CRITICAL)
    elif kind == "out-of-sync":
        from xenhelper import differing

        time.sleep(_RECORDED)
        if alerts.is_active("verify", name):
            return  # `xenhelper verify` has told of it
        where = differing.where(name, time.time())
        alerts.try_raise(
            "out-of-sync",
            name,
            f"{name}: a verify found blocks that differ between the two copies{where}",
            f"`xenhelper verify {vm}` shows where; `xenhelper verify {vm} --repair --good HOST` mends it",
            vm,
            name,
            alerts.ERROR,
        )
    else:
        what = f"{name}: {_SAYS[kind].format(peer=peer)}"
        do = f"`xenhelper status {vm}`; shut {vm} down if it runs here on old data"
        alerts.try_raise("handler", name, what, do, vm, name, alerts.CRITICAL)
        log.event("drbd", what, log.ERROR, vm=vm, resource=name)


def _detached() -> bool:
    """True in the handler; its grandchild, which nobody waits for, gets False."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return True
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if os.fork():
        os._exit(0)
    return False


def synchronous(name: str, record: "dict[str, str]", seconds: float = 20.0) -> None:
    """Protocol C while the Primary has no disk of its own: at A it would acknowledge
    writes that are on no disk anywhere. Left to the reconciler while a migration, which
    has set C already, holds the VM. Raises XenhelperError."""
    from xenhelper import steady
    from xenhelper.drbd import events

    deadline = time.monotonic() + seconds
    fd = intents.lock(record["vm"], wait=seconds / 2, who="local-io-error")
    try:
        while time.monotonic() < deadline:
            state = events.one(name)
            if state is None or steady.protocol(record, state) != "C":
                time.sleep(0.3)  # it is still letting go of its disk
                continue
            steady.close(name, "C")
            return
    finally:
        os.close(fd)
