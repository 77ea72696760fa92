"""The hand-over of a disk between two running hosts, both sides of it.

Only the source ever grants: once its domain is suspended, its writes have drained and
protocol C is set, it sets two-primaries yes. That packet follows all data on the same
stream, so a destination that sees it has received every acknowledged write. The source
says over the peer channel that it has granted; a permission that merely shows (one left
by an earlier migration) proves nothing, so then the destination asks.
"""

import os
import time

from xenhelper import handed, hotplug, log, names, paths, statefile
from xenhelper.drbd import barrier, events, show, verbs
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

TYPE_CHECKING = False  # importing typing costs the hook
if TYPE_CHECKING:
    from collections.abc import Callable

_GRANTS = paths.RUN + "/granted"
# how long the source's word holds: it is given while the guest is suspended
_FRESH = 60.0
# seconds after which a look at the guest is no news any more
_LOOK_AGAIN = 0.3


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- destination ---------------------------------------------------------------------


def note_grant(resource: str, domid: int) -> None:
    """The source has granted this resource just now (its word, over the peer channel), for
    the migration whose half here is domain ``domid``: the word may come when that one's
    `add` has asked already, and mustn't be taken for one about the next migration."""
    statefile.write(f"{_GRANTS}/{resource}", {"at": f"{_boottime():.3f}", "domid": str(domid)})


def forget_grant(resource: str) -> None:
    """A grant counts once."""
    statefile.remove(f"{_GRANTS}/{resource}")


def _granted(resource: str, domid: int) -> bool:
    record = statefile.read(f"{_GRANTS}/{resource}")
    if record is None:
        return False
    forget_grant(resource)
    fresh = 0 <= _boottime() - float(record.get("at", "-inf")) < _FRESH
    return fresh and record.get("domid") == str(domid)


def await_grant(resource: str, domain: str, domid: int, peer: str, deadline: float) -> None:
    """Return once the source has granted and its marker has arrived here.

    Called in the destination's ``add``, the guest suspended. Raises Refused or
    XenhelperError; xl then resumes the guest at the source.
    """
    if not _granted(resource, domid):
        _ask_grant(resource, domain, peer, deadline)
    while True:
        settings = show.one(resource)
        if settings is not None and settings.two_primaries:
            return
        if time.monotonic() > deadline:
            raise Refused(
                f"{resource}: {peer}'s permission didn't arrive in time", "the link is slow; try again later"
            )
        state = events.one(resource)
        if state is None or not state.connected:
            raise Refused(
                f"{resource}: the link to {peer} was lost during the hand-over", "see `xenhelper status`"
            )
        time.sleep(0.05)


def _ask_grant(resource: str, domain: str, peer: str, deadline: float) -> None:
    from xenhelper.peer import client

    if not peer:
        raise Refused(
            f"{resource} is in use on the other host", "xenhelper doesn't know that host; `xenhelper setup`"
        )
    settings = show.one(resource)
    if settings is not None and settings.two_primaries:
        # left over: without seeing it go first, the new marker couldn't be told from it
        client.ask(peer, "revoke", {"resource": resource}, timeout=8.0)
        while settings is not None and settings.two_primaries:
            if time.monotonic() > deadline:
                raise Refused(f"{resource}: an old permission doesn't go away", "`xenhelper reconcile`")
            time.sleep(0.05)
            settings = show.one(resource)
    try:
        client.ask(
            peer,
            "grant",
            {"resource": resource, "domain": domain},
            timeout=max(1.0, deadline - time.monotonic()),
        )
    except PeerUnreachable as error:
        raise Refused(
            f"{resource}: {peer} can't be asked to hand it over: {error.what}", "`xenhelper doctor`"
        ) from error
    except PeerFailed as error:
        raise Refused(f"{resource}: {peer} doesn't hand it over: {error}") from error


# -- source --------------------------------------------------------------------------


def grant(
    name: str,
    resumed: "Callable[[], bool]",
    seconds: float = 12.0,
    opened: "show.Settings | None" = None,
) -> None:
    """Grant one resource of a suspended guest to the peer. Safe to run twice.

    Precondition: the caller saw the guest suspended just now; ``resumed`` looks whether
    it goes on meanwhile (xl gave up), asked again when this took its time. ``opened``: what
    this process has opened the window with, which holds while the protocol is C still. Raises
    Refused and leaves the permission at no when anything isn't as it must be.
    """
    started = time.monotonic()
    deadline = started + seconds
    held = hotplug.lock(f"grant-{name}", seconds)
    try:
        resource = barrier.quiet(name, seconds)
        settings = opened if opened is not None and resource.protocol == "C" else show.one(name)
        if settings is None or not settings.remote:
            raise Refused(f"{name}: not connected", "see `xenhelper status`")
        if resource.role != events.PRIMARY:
            raise Refused(
                f"{name}: not Primary here, so there is nothing to hand over", "see `xenhelper status`"
            )
        if settings.two_primaries:
            return
        if settings.protocol != "C":
            verbs.net_options(settings.local, settings.remote, "C", False)
            barrier.drain(name, resource.minor, time.monotonic(), max(1.0, deadline - time.monotonic()))
            barrier.quiet(name, max(1.0, deadline - time.monotonic()))
        if time.monotonic() - started > _LOOK_AGAIN and resumed():
            raise Refused(f"{name}: the guest goes on here, the migration was given up")
        record = statefile.read(f"{paths.RESOURCES}/{name}") or {}
        if record.get("vm") and record.get("peer"):
            handed.note(record["vm"], record["peer"], hotplug.now())
        verbs.net_options(settings.local, settings.remote, "C", True)
    finally:
        os.close(held)
    log.event("window-granted", f"{name}: two-primaries yes, the guest is suspended", resource=name)


def serve_grant(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``grant``: the destination's ``add`` asks. Only for a suspended domain of ours."""
    name, record = _of_peer(peer, args["resource"])
    vm = record.get("vm", "")
    if args["domain"] != vm + names.INCOMING:
        raise Refused(f"{name} belongs to {vm or 'no VM'}, not to {args['domain'][:90]}")
    deadline = time.monotonic() + 6.0
    while True:
        here = domains.find(vm)
        if any(domain.suspended and domain.name != vm + names.INCOMING for domain in here):
            break
        if time.monotonic() > deadline:
            raise Refused(f"{vm} isn't suspended for a migration", f"here: {here or 'no such domain'}")
        time.sleep(0.1)

    def resumed() -> bool:
        return not any(domain.suspended for domain in domains.find(vm))

    grant(name, resumed)
    if resumed():
        take_back(name)
        raise Refused(f"{vm} goes on here, the migration was given up")
    return {"granted": True}


def serve_granted(peer: str, args: "dict[str, list[str]]") -> "dict[str, object]":
    """Verb ``granted``: the source tells that it granted these resources just now."""
    shared = [_of_peer(peer, resource) for resource in args["resources"]]
    with Xenstore() as store:
        vms = {record.get("vm", "") for _, record in shared}
        here = {vm: domains.by_name(store, vm + names.INCOMING) for vm in vms}
    for name, record in shared:
        domid = here[record.get("vm", "")]
        if domid is not None:  # else nobody here waits for it
            note_grant(name, domid)
    return {}


def serve_revoke(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``revoke``: take back a permission that an earlier migration left.

    Keeps protocol C: whatever was acknowledged since is on both disks.
    """
    name, _ = _of_peer(peer, args["resource"])
    take_back(name)
    return {}


def take_back(name: str) -> None:
    """Two-primaries no again, protocol C kept. Raises CommandFailed when both are Primary."""
    held = hotplug.lock(f"grant-{name}", 5.0)
    try:
        settings = show.one(name)
        if settings is not None and settings.remote and settings.two_primaries:
            verbs.net_options(settings.local, settings.remote, "C", False)
    finally:
        os.close(held)


def _of_peer(peer: str, resource: str) -> "tuple[str, dict[str, str]]":
    """The resource's record, if it is one that this host shares with ``peer``."""
    name = names.check_resource(resource)
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name}: not a resource shared with {peer}")
    return name, record
