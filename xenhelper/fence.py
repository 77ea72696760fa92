"""Fencing: DRBD's fence-peer handler, the consent to start alone, and the peer's answer.

The handler runs when a Primary loses its peer, and when a disconnected host wants to
become Primary. Exit 4 only when the peer said that it outdated its disk; 5 ("gone, go
on") only where this host certainly has the newest data: it is Primary, or holds a
permit; anything else refuses. Answers within 5 s, over the management path.
"""

import os
import sys
import time

from xenhelper import handed, intents, log, names, paths, permits, statefile
from xenhelper.drbd import events, show, verbs
from xenhelper.errors import CommandFailed, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

OUTDATED, UNREACHABLE, REFUSE = 4, 5, 1  # drbd.conf(5), fence-peer
# seconds: the handler's 5; of these 3 at the most for the peer, and a look at this host may take
# what the peer doesn't need: on a host that is short of processors it takes longer than the peer
_WITHIN = 5.0
_ANSWER = 3.0
_LEAST = 1.0
_ASKING = paths.RUN + "/asking"
_MOVING = "in the middle of a migration"


def main() -> int:
    """``fence-peer``, called by drbdadm with DRBD_RESOURCE in the environment."""
    name = os.environ.get("DRBD_RESOURCE", "")
    try:
        names.check_resource(name)
        status, why = fence_peer(name)
    except (XenhelperError, OSError) as error:
        status, why = REFUSE, str(error)
    priority = log.NOTICE if status == OUTDATED else log.WARNING
    log.event("fenced", f"{name}: fence-peer answers {status}: {why}", priority, resource=name)
    print(f"{name}: {why}", file=sys.stderr)
    return status


def fence_peer(name: str) -> "tuple[int, str]":
    """(exit status, why) for this resource now. Raises XenhelperError."""
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None:
        return REFUSE, "not a resource of xenhelper"
    peer = record["peer"]
    deadline = time.monotonic() + _WITHIN
    state = events.one(name, _WITHIN - 2 * _LEAST)
    if state is None:
        return REFUSE, "not up"
    # before the peer is asked, too: a migration that shows now may be over by its answer
    moving = state.role == events.PRIMARY and _moving(name, record["vm"])
    try:
        _ask(name, state.minor, peer, deadline)
        return OUTDATED, f"{peer} outdated its copy"
    except PeerFailed as error:
        return REFUSE, f"{peer} doesn't outdate its copy: {error}"
    except PeerUnreachable as error:
        if state.role == events.PRIMARY:
            doubt = _MOVING if moving else _doubt(name, record["vm"])
            if doubt:
                return REFUSE, f"{peer} is unreachable {doubt}: {error.what}"
            return UNREACHABLE, f"{peer} is unreachable and this host has the newest data: {error.what}"
        from xenhelper import ceded

        if ceded.may_start(name, state.minor):
            return OUTDATED, f"{peer} ceded it when it shut down"
        if permits.valid(name, state.minor):
            return UNREACHABLE, f"{peer} is unreachable and this host holds a permit"
        return REFUSE, f"{peer} is unreachable: {error.what}"


def _doubt(name: str, vm: str) -> str:
    """Why this Primary may not have the newest data: the peer may be Primary, too. Empty
    when the VM itself runs here and nothing of a migration shows."""
    if _moving(name, vm):
        return _MOVING
    with Xenstore() as store:
        if any(user == vm for _, user in domains.users_of(store, name, served=True)):
            return ""
        if not any(user == vm for _, user in domains.users_of(store, name)):
            return f"and {vm} doesn't run here"
    # it is being created: that is a reboot of what ran here, or somebody's mistake
    return f"and {vm} was handed over to it" if handed.pending(vm) else ""


def _moving(name: str, vm: str) -> bool:
    settings = show.one(name)
    return intents.read("window", vm) is not None or (settings is not None and settings.two_primaries)


def _ask(name: str, minor: int, peer: str, deadline: float) -> None:
    """``deadline``: on the monotonic clock, in seconds."""
    generation = verbs.generation(minor, max(_LEAST, deadline - _LEAST - time.monotonic()))
    _tell(name, generation, peer, min(_ANSWER, max(_LEAST, deadline - time.monotonic())))


def _tell(name: str, generation: "tuple[int, int]", peer: str, timeout: float) -> None:
    from xenhelper.peer import client

    current, bitmap = (f"{uuid:016x}" for uuid in generation)
    args: "dict[str, object]" = {"resource": name, "current": current, "bitmap": bitmap}
    client.ask(peer, "outdate", args, timeout=timeout)


def ask_outdate(name: str, minor: int, peer: str) -> None:
    """Have the peer outdate its copy. Raises PeerFailed when it doesn't, PeerUnreachable."""
    _ask(name, minor, peer, time.monotonic() + _WITHIN)


def again(records: "list[dict[str, str]]", running: "set[str]") -> None:
    """What the handler was refused, or couldn't ask, at the moment of the loss: have the peers
    outdate their copies of what the VMs ``running`` here write to alone.

    Each host notices a dead link by itself, as much as ping-int (10 s, resfile.py) apart: so
    the handler may have asked a peer that still saw the connection. Or the second path was
    cut as well, and is back first. A takeover there would else go by the data's age alone.
    Never raises; a refusal stays the peer's own affair, and is asked about again.
    """
    from xenhelper.drbd import proc
    from xenhelper.stepdown import window_open

    states = proc.read()[1]
    # a VM that is being changed may be apart on purpose
    alone = running - {intent.get("vm", "") for intent in intents.all_open()}
    silent: "set[str]" = set()
    for record in records:
        name, peer, minor = record["resource"], record.get("peer", ""), record.get("minor", "")
        state = states.get(int(minor)) if minor.isdecimal() else None
        if state is None or state.role != events.PRIMARY or state.disk != events.UP_TO_DATE or state.talks:
            continue
        if state.peer_disk != "DUnknown" or record["vm"] not in alone or peer in silent:
            continue
        if intents.is_locked(record["vm"]):
            continue
        try:
            generation = verbs.generation(int(minor))
            if generation[1] and not window_open(name, record["vm"]):
                _tell(name, generation, peer, _ANSWER)
        except PeerUnreachable:
            silent.add(peer)
        except XenhelperError:
            continue


def ask_consent(name: str, minor: int, peer: str, vm: str) -> None:
    """Before a start without the replication link: the peer must step back, and does so
    before it answers. If both hosts ask at once the lower host name wins. Raises Refused."""
    if not peer:
        raise Refused(
            f"{name}: not connected, and xenhelper doesn't know its other host", "`drbdadm connect`"
        )
    mark = f"{_ASKING}/{name}"
    statefile.write(mark, {"pid": str(os.getpid())})
    try:
        ask_outdate(name, minor, peer)
    except PeerUnreachable as error:
        from xenhelper import ceded

        if ceded.may_start(name, minor):
            from xenhelper import moved

            hosts = moved.elsewhere(vm, peer)
            if not hosts:
                return
            raise Refused(
                f"{vm}: {hosts} have it now", "`xenhelper reconcile` says what is left here"
            ) from error
        raise Refused(
            f"{name}: not connected, and {peer} doesn't answer, so {peer} may have newer data or run {vm}",
            f"bring {peer} back; if it is dead: `xenhelper takeover {vm}`",
        ) from error
    except PeerFailed as error:
        raise Refused(f"{name}: not connected, and {peer} refuses: {error}") from error
    finally:
        statefile.remove(mark)


def serve_outdate(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``outdate``: step back for ``peer``, if this host has and does nothing newer.

    Outdates the local disk before it answers. Raises Refused.
    """
    name = names.check_resource(args["resource"])
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name}: not a resource shared with {peer}")
    host, vm = record["host"], record["vm"]
    if statefile.read(f"{_ASKING}/{name}") is not None and host < peer:
        raise Refused(f"{host} starts {vm} at this moment, too, and goes first")
    with Xenstore() as store:
        users = [user or str(domid) for domid, user in domains.users_of(store, name)]
    if users:
        raise Refused(
            f"{name} is in use on {host} by {', '.join(users)}", f"see `xenhelper status` on {host}"
        )
    state = _disconnected(name)
    if state is None:
        raise Refused(f"{name} isn't up on {host}", f"`xenhelper reconcile` on {host}")
    if state.role == events.PRIMARY:
        raise Refused(f"{name} is Primary on {host}", f"see `xenhelper status` on {host}")
    if state.disk in events.OUTDATED_OR_WORSE:
        return {"outdated": True}
    if state.connected:
        raise Refused(f"{name}: {host} still sees the connection", "try again in a moment")
    current, bitmap, died_primary = verbs.lineage(state.minor)
    if bitmap:
        # it went on alone, or was a resync's source and never heard of its end: the peer may
        # have the same current generation then, and lack what was written here since
        raise Refused(
            f"{name}: {host} may have writes that {peer} lacks (bitmap generation {bitmap:016x})",
            f"start {vm} on {host}, or bring the link back first",
        )
    if died_primary and f"{current:016x}" == args["current"]:
        # what it acknowledged at protocol A just before may not have reached the peer, which
        # hasn't gone on alone either; once both are connected DRBD resyncs from here
        raise Refused(
            f"{name}: {host} went down while it ran {vm} and may have writes that {peer} lacks",
            f"start {vm} on {host}, or bring the link back first",
        )
    if f"{current:016x}" not in (args["current"], args["bitmap"]):
        raise Refused(
            f"{name}: {host} has other data (generation {current:016x})", "see `xenhelper status` on both"
        )
    try:
        verbs.outdate(state.minor)
    except CommandFailed as error:
        raise Refused(f"{name}: {host} can't outdate its copy: {error.stderr.strip()[-200:]}") from error
    after = events.one(name)
    if after is None or after.disk not in events.OUTDATED_OR_WORSE:
        raise Refused(f"{name}: {host} didn't outdate its copy ({after})")
    log.event("fenced", f"{name}: outdated here on {peer}'s word", log.NOTICE, resource=name, vm=vm)
    return {"outdated": True}


def _disconnected(name: str) -> "events.Resource | None":
    """The state here; if it still shows a connection, give it a moment to notice."""
    deadline = time.monotonic() + 2.0
    state = events.one(name)
    while state is not None and state.connected and time.monotonic() < deadline:
        time.sleep(0.2)
        state = events.one(name)
    return state
