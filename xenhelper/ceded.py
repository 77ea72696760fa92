"""A clean shutdown cedes: the host that goes says so, and the other may start its VMs unasked.

Both keep a durable record ``/var/lib/xenhelper/ceded/RESOURCE``. The one that ceded
(``by``) outdates its own copy and starts nothing on it before the other has handed the
word back; the other may promote without an answer as long as its copy is still of the
generation that was ceded. So never both.
"""

import os
import time

from xenhelper import insync, intents, log, names, paths, statefile
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError

_OLD = 60.0  # seconds after which a record between two connected hosts means nothing any more


def path(resource: str) -> str:
    """Where the record of ``resource`` is."""
    return f"{paths.STATE}/ceded/{resource}"


def may_start(resource: str, minor: int) -> bool:
    """Whether the peer ceded this very data to us and hasn't been heard of since."""
    record = statefile.read(path(resource))
    if record is None or record.get("by") == os.uname().nodename:
        return False
    try:
        return record.get("current") == f"{verbs.generation(minor)[0]:016x}"
    except XenhelperError:
        return False


def take_back(resource: str, peer: str) -> None:
    """Before this host uses a disk that it ceded at its last shutdown: have the word
    handed back. Nothing to do for one that the peer ceded. Raises Refused."""
    record = statefile.read(path(resource))
    if record is None or record.get("by") != os.uname().nodename:
        return
    from xenhelper.peer import client

    try:
        client.ask(peer, "uncede", {"resource": resource}, timeout=5.0)
    except (PeerUnreachable, PeerFailed) as error:
        raise Refused(
            f"{resource}: this host ceded it to {peer} at its shutdown, and {peer} doesn't give it back: "
            f"{error.what}",
            f"bring {peer} back; if it is dead: `xenhelper takeover`",
        ) from error
    statefile.remove(path(resource))


def forget(resource: str) -> None:
    """No word is out any more (a takeover, or a resource that is forgotten)."""
    statefile.remove(path(resource))


def serve_uncede(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``uncede``: ``peer`` is back and wants its word. Always given: it only takes a
    permission from this host, and doesn't let ``peer`` start anything by itself."""
    name = names.check_resource(args["resource"])
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name}: not a resource shared with {peer}")
    if (statefile.read(path(name)) or {}).get("by") == peer:
        statefile.remove(path(name))
    return {}


def serve_cede(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``cede``: ``peer`` shuts down and leaves us these resources of one VM.

    Taken only when this host stays, and has every write: connected, UpToDate on both, all
    of it on disk, ``peer`` Secondary.
    """
    host = os.uname().nodename
    if os.path.exists(paths.STOPPING):
        raise Refused(f"{host} is shutting down, too")
    wanted = [names.check_resource(str(name)) for name in list(args["resources"])]  # type: ignore[call-overload]
    for name in wanted:
        record = statefile.read(f"{paths.RESOURCES}/{name}")
        if record is None or record.get("peer") != peer:
            raise Refused(f"{name}: not a resource shared with {peer}")
        state = verbs.wait_until(name, 5.0, "drained")
        if not state.in_sync or state.peer_role != events.SECONDARY:
            raise Refused(f"{name}: not Connected, UpToDate and free on {peer} ({state})")
        current = f"{verbs.generation(state.minor)[0]:016x}"
        statefile.write(path(name), _record(name, peer, host, current))
    vm = names.check_vm(str(args["vm"]))
    log.event("ceded", f"{vm}: {peer} shuts down and leaves it to {host}", log.NOTICE, vm=vm)
    return {}


def _record(name: str, by: str, to: str, current: str) -> "dict[str, str]":
    return {"resource": name, "by": by, "to": to, "current": current, "at": insync.stamp(time.time())}


def cede_all() -> "list[str]":
    """At this host's shutdown, its guests down: cede every VM that runs nowhere else.
    Returns one line for each VM, ceded or not."""
    said = []
    by_vm: "dict[str, list[dict[str, str]]]" = {}
    for name in statefile.names(paths.RESOURCES):
        record = statefile.read(f"{paths.RESOURCES}/{name}")
        if record and record.get("vm") and record.get("peer"):
            by_vm.setdefault(record["vm"], []).append(record)
    silent: "set[str]" = set()
    for vm, records in sorted(by_vm.items()):
        peer = records[0]["peer"]
        if peer in silent:
            said.append(f"{vm}: not ceded: {peer} doesn't answer")
            continue
        try:
            fd = intents.lock(vm, wait=5.0, who="shutdown")
            try:
                said.append(_cede(vm, records, events.snapshot()))
            finally:
                os.close(fd)
        except PeerUnreachable as error:
            silent.add(peer)
            said.append(f"{vm}: not ceded: {error}")
        except XenhelperError as error:
            said.append(f"{vm}: not ceded: {error}")
    return said


def _cede(vm: str, records: "list[dict[str, str]]", states: "dict[str, events.Resource]") -> str:
    from xenhelper.peer import client

    peer = records[0]["peer"]
    for record in records:
        state = states.get(record["resource"])
        if state is None or state.role == events.PRIMARY:
            return f"{vm}: not ceded: {record['resource']} is {'not up' if state is None else 'in use here'}"
        if state.peer_role == events.PRIMARY:
            # a goodbye outdates this copy and spares the Primary the wait for a dead link
            for name in [other["resource"] for other in records]:
                # drbdadm fails (10) on one that has no connection, and others may follow
                if name in states and states[name].connection != "StandAlone":
                    bringup.adm(vm, "disconnect", name, timeout=10)
            return f"{vm}: runs on {peer}"
        if not state.in_sync:
            return f"{vm}: not ceded: {record['resource']} isn't in sync ({state})"
    wanted = [record["resource"] for record in records]
    for name in wanted:
        current = f"{verbs.generation(states[name].minor)[0]:016x}"
        statefile.write(path(name), _record(name, os.uname().nodename, peer, current))
    try:
        client.ask(peer, "cede", {"vm": vm, "resources": wanted}, timeout=10.0)
    except PeerFailed:
        for name in wanted:
            forget(name)
        raise
    # from here on, and when no answer came, this copy waits for the peer's word
    for name in wanted:
        bringup.adm(vm, "disconnect", name, timeout=10)
        verbs.outdate(states[name].minor)
    log.event("ceded", f"{vm}: left to {peer} at this host's shutdown", log.NOTICE, vm=vm)
    return f"{vm}: ceded to {peer}"


def tidy(record: "dict[str, str]") -> None:
    """Both hosts are connected again: no word is needed any more. Called by the reconciler."""
    name = record["resource"]
    noted = statefile.read(path(name))
    if noted is None or time.time() - (insync.seconds(noted.get("at", "")) or 0) < _OLD:
        return
    if noted.get("by") == os.uname().nodename:
        take_back(name, record["peer"])
    else:
        statefile.remove(path(name))
