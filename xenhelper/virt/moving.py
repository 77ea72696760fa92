"""libvirt's live migration: the window opened, the guest handed over, all closed. What the
destination's hook does, and what either end does when its domain is gone; virt/source.py
has what the source is asked for.

libvirt has no moment between the guest's suspension and the restored domain's disks at
which a hook runs, so both hosts are Primary for the whole pre-copy. What keeps one writer:

- ``migrate`` on the destination announces it; the hook does nothing else there, since a
  refusal there leaves the source's libvirt with a job that never ends (Prepare failed,
  no Confirm: virDomainMigrateVersion3Full);
- ``start`` on the destination, while the source's stream waits, has the source open the
  window: it checks, sets protocol C, drains, permits two Primaries. A refusal ends the
  stream in the middle of the pre-copy, and the guest goes on at the source;
- ``started`` on the destination, the restored domain still paused, asks the source: it sees
  its guest suspended, pauses that domain besides, so that nothing but ``xl unpause`` makes
  it run again, and sees nothing in flight. Only then may the guest run here;
- ``release`` on either side closes.

Any of it may never come: the reconciler looks (reconcile.py, virt/settle.py).
"""

import os
import time

from xenhelper import intents, log, paths, statefile, virt
from xenhelper.drbd import events
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.virt import hold

TYPE_CHECKING = False  # importing typing costs the hook
if TYPE_CHECKING:
    from xenhelper.virt.hook import Call

_ANNOUNCED = paths.RUN + "/announced"
# seconds: from Prepare to the stream's connection
_FRESH = 120.0
_OPEN = 60.0
_GO = 25.0
PASSED = "passed"


def announce(vm: str, uuid: str = "") -> None:
    """``migrate``: libvirt expects this domain. Counts for the next ``start`` by this libvirt.

    ``uuid``: '' where libvirt doesn't tell; the source looks at it when it opens the window.
    """
    statefile.write(
        f"{_ANNOUNCED}/{vm}",
        {"vm": vm, "uuid": uuid, "at": f"{_boottime():.3f}", "pid": str(os.getppid())},
    )


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _announced(call: "Call") -> bool:
    record = statefile.read(f"{_ANNOUNCED}/{call.vm}")
    if record is None:
        return False
    statefile.remove(f"{_ANNOUNCED}/{call.vm}")
    fresh = 0 <= _boottime() - float(record.get("at", "-inf")) < _FRESH
    return fresh and record.get("uuid") in ("", call.uuid) and record.get("pid") == str(os.getppid())


def open_if_announced(call: "Call") -> bool:
    """``start``: when it is a migration's, have the source open the window; whether it is one.
    Raises Refused or XenhelperError."""
    if not _announced(call):
        return False
    from xenhelper.peer import client

    _check_others(call)
    peer = call.peer
    try:
        client.ask(
            peer,
            "virt-open",
            {"vm": call.vm, "uuid": call.uuid, "resources": sorted(call.records)},
            timeout=_OPEN,
        )
    except PeerUnreachable as error:
        raise Refused(f"{peer} doesn't answer: {error.what}", f"is {peer} up? `xenhelper doctor`") from error
    except PeerFailed as error:
        raise Refused(str(error)) from error
    if virt.incoming(call.vm) is None:
        raise Refused(
            f"{call.vm}: {peer} opened no window for its migration", "bring both hosts to one version"
        )
    return True


def _check_others(call: "Call") -> None:
    """What isn't replicated isn't here, whatever is at its path. Raises Refused."""
    if not call.others:
        return
    import fnmatch

    from xenhelper import config, volumes

    shared = config.load().shared_volumes
    for path in call.others:
        named = volumes.split_path(path)
        name = "/".join(named) if named else path
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in shared):
            raise Refused(
                f"{call.vm}: disk {path} is neither replicated nor declared shared",
                f"`xenhelper replicate --libvirt {call.vm}` while it is off, or name it in shared_volumes",
            )


def started(call: "Call") -> None:
    """``started``: the last look before an incoming guest runs here. Raises XenhelperError, and
    libvirt destroys the copy, which never ran."""
    intent = virt.incoming(call.vm)
    if intent is None:
        return
    from xenhelper.peer import client

    peer = call.peer
    try:
        client.ask(
            peer,
            "virt-go",
            {"vm": call.vm, "uuid": call.uuid, "resources": sorted(call.records)},
            timeout=_GO,
        )
    except (PeerUnreachable, PeerFailed) as error:
        raise Refused(f"{call.vm}: {peer} doesn't hand it over: {error.what}", error.do) from error
    deadline = time.monotonic() + 15.0
    for name in call.records:
        while True:
            state = events.one(name)
            if state is None or not state.in_sync or state.role != events.PRIMARY:
                raise Refused(
                    f"{name}: the link to {peer} was lost during the hand-over", "see `xenhelper status`"
                )
            if not state.lower_pending:
                break
            if time.monotonic() > deadline:
                raise Refused(f"{name}: the last writes aren't on disk yet", "try again in a moment")
            time.sleep(0.05)
    intents.write("window", call.vm, **{**_fields(intent), PASSED: "yes"})


def _fields(intent: "dict[str, str]") -> "dict[str, str]":
    return {key: value for key, value in intent.items() if key not in ("kind", "vm", "since")}


def ended(call: "Call") -> None:
    """``release``, the disks given back: close the window, whichever end this is.

    Precondition: the VM's lock is held. What can't be closed now is left to the reconciler.
    """
    from xenhelper.peer import client

    statefile.remove(f"{_ANNOUNCED}/{call.vm}")
    coming, going = virt.incoming(call.vm), virt.outgoing(call.vm)
    if coming is None and going is None:
        return
    from xenhelper import window

    left = window.close_all(list(call.records), 5.0)
    try:
        if left:
            raise XenhelperError("; ".join(left), "`xenhelper reconcile`")
        if going is not None:
            client.ask(call.peer, "window-end", {"vm": call.vm}, timeout=15.0)
            hold.forget(call.vm)
        else:
            ran = (coming or {}).get(PASSED) == "yes"
            client.ask(call.peer, "virt-over", {"vm": call.vm, "ran": ran}, timeout=20.0)
    except XenhelperError as error:
        log.event("note", f"{call.vm}: its window is closed later: {error}", log.WARNING, vm=call.vm)
        return
    intents.remove("window", call.vm)
    log.event(
        "window-closed", f"{call.vm}: libvirt's migration is over", vm=call.vm, intent=f"window-{call.vm}"
    )
