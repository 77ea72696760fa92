"""Hosts that count as dead, by proof or a person's word, until they are heard of.

``takeover`` notes it, for this boot only (``/run``). Whatever comes from such a host, on
whatever path, shows that it lives; from then on its own VMs may start there again. So what
a takeover permitted here ends then, and not only once DRBD has met: both paths may be lost
again before that, and the permit names a generation of data which the other host writes to
as well as long as it isn't alone.
"""

import os
import time
from collections.abc import Mapping

from xenhelper import insync, log, paths, permits, statefile
from xenhelper.drbd import proc
from xenhelper.errors import XenhelperError


def _path(peer: str) -> str:
    return f"{paths.RUN}/dead/{peer}"


def note(peer: str, why: str) -> None:
    """``peer`` is dead from now on; ``why``: who says so. Raises XenhelperError."""
    statefile.write(_path(peer), {"peer": peer, "why": why, "at": insync.stamp(time.time())})


def holds(peer: str) -> bool:
    """Whether ``peer`` counts as dead still."""
    return os.path.exists(_path(peer))


def heard(peer: str) -> None:
    """``peer`` has spoken. Called for all that comes from it, so it costs one look at a file
    while nobody counts as dead. Never raises."""
    if not holds(peer):
        return
    try:
        ended = _end(peer)
        statefile.remove(_path(peer))
        # what was permitted between the two: takeover looks for the note after it has permitted
        ended |= _end(peer)
    except (XenhelperError, OSError) as error:
        log.event("failed", f"{peer} is back, and what was noted of its death stays: {error}", log.WARNING)
        return
    from xenhelper import alerts

    log.event("takeover", f"{peer} is back", log.NOTICE, peer=peer)
    for vm in sorted(ended):
        text = f"{vm}: {peer} is back, so it may not start here without {peer} any more"
        log.event("takeover", text, log.NOTICE, vm=vm, peer=peer)
        alerts.try_clear("takeover", vm, f"{peer} is back, and {vm} wasn't started here")


def met(states: Mapping[int, proc.State], records: "Mapping[str, Mapping[str, str]]") -> None:
    """What DRBD shows at this moment, ``states`` by minor: a permit to promote alone ends the
    moment both hosts talk, and so does their other host's death. Raises XenhelperError."""
    for name in statefile.names(paths.PERMITS):
        minor = records.get(name, {}).get("minor", "")
        state = states.get(int(minor)) if minor.isdecimal() else None
        if state is not None and state.talks:
            permits.revoke(name)
            heard(records[name].get("peer", ""))


def _end(peer: str) -> "set[str]":
    """End a takeover's permits of what is shared with ``peer``. Returns the VMs.

    Not what has been started by it: that guest's reboot is nobody else's affair, and a start
    over there needs this host's consent, or DRBD to meet.
    """
    from xenhelper import autostart

    ended = set()
    for name in statefile.names(paths.PERMITS):
        permit, record = statefile.read(permits.path(name)), statefile.read(f"{paths.RESOURCES}/{name}")
        if permit is None or permit.get("why") != permits.TAKEOVER:
            continue
        vm = record.get("vm") if record is not None and record.get("peer") == peer else None
        if not vm:
            continue
        granted = insync.seconds(permit.get("at", "")) or 0.0
        # both times are of whole seconds
        if not autostart.ran_since(statefile.read(f"{paths.VMS}/{vm}") or {}, granted - 1.0):
            permits.revoke(name)
            ended.add(vm)
    return ended
