"""``verify --repair --good HOST``: what is known to differ is copied from the good side.

DRBD has marked the differing blocks in its bitmaps, on both sides, and copies them at the
next connection, provided that it knows who is the source. That must never be left to
chance: while the VM runs nowhere both copies are of one generation, and DRBD copies
nothing. So the VM runs on the good side. The other one leaves the connection, which
outdates it and so keeps it from starting anything, and makes the Primary begin a
generation of its own with the marks kept; when both connect, the side whose bitmap UUID is
the other's current one is the source and sends what either has marked
(drbd_uuid_compare(), rules 70 and 50). After an interruption anywhere, connecting again
(the reconciler does) ends in the same.
"""

import os
import time
from collections.abc import Callable

from xenhelper import hotplug, intents, log, names, paths, statefile
from xenhelper.drbd import bringup, events, show, verbs
from xenhelper.errors import Refused, UsageError, XenhelperError
from xenhelper.peer import client
from xenhelper.verify import results, stop
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

_CONNECT = 30.0  # seconds for both sides to find each other
_SYNC = 3600.0  # seconds that the command watches the copying, which goes on without it
_SOURCES = ("SyncSource", "PausedSyncS", "WFBitMapS")
_TARGETS = ("SyncTarget", "PausedSyncT", "WFBitMapT", "WFSyncUUID")
STEPS = ("look", "apart", "source", "join")


def run(vm: str, records: list[dict[str, str]], good: str, dry_run: bool, say: Callable[[str], None]) -> bool:
    """Mend every disk of ``vm`` whose copies are known to differ. False: none does.

    Raises Refused before anything was changed when it isn't safe, XenhelperError.
    """
    host, peer = records[0]["host"], records[0]["peer"]
    if good not in (host, peer):
        raise UsageError(f"{vm}'s disks are on {host} and {peer}, not on {good[:80]}")
    bad = peer if good == host else host
    fd = intents.lock(names.check_vm(vm), wait=15.0, who="verify --repair")
    try:
        wrong = {}
        for record in records:
            name = record["resource"]
            stop.make_way(name)
            state = events.one(name)
            if state is not None and state.out_of_sync and state.in_sync:
                wrong[name] = state.out_of_sync
        if not wrong:
            return False
        for name in wrong:
            for side in (bad, good):
                _on(side, host, name, "look", good)
        for name, octets in wrong.items():
            if dry_run:
                say(f"{name}: {results.amount(octets)} would be copied from {good} to {bad}")
            else:
                _one(name, vm, host, good, bad, say)
        return True
    finally:
        os.close(fd)


def _one(name: str, vm: str, host: str, good: str, bad: str, say: Callable[[str], None]) -> None:
    before = events.one(name)
    octets = before.out_of_sync if before is not None else 0
    _on(bad, host, name, "apart", good)
    try:
        _on(good, host, name, "source", good)
    finally:
        # whatever came of it: outdated and alone is no state to be left in
        _on(bad, host, name, "join", good)
    _started(name, host, good, bad)
    say(f"{name}: {results.amount(octets)} are copied from {good} to {bad}")
    _through(name, say)
    _noted(name, octets, host, good, bad)
    log.event("verify", f"{name}: repaired from {good}", log.NOTICE, vm=vm, resource=name, good=good)
    say(f"{name}: both copies are {good}'s now")


def _on(side: str, host: str, name: str, step: str, good: str) -> None:
    if side == host:
        take(name, step, good)
    else:
        client.ask(side, "verify-repair", {"resource": name, "step": step, "good": good}, timeout=60.0)


def take(name: str, step: str, good: str) -> None:
    """One step on this host's side, which is the good one or the other. Raises Refused."""
    record = statefile.read(f"{paths.RESOURCES}/{names.check_resource(name)}")
    if record is None:
        raise Refused(f"{name}: no resource of this host")
    mine = good == record["host"]
    if step == "look":
        (_look_good if mine else _look_bad)(name, record)
        return
    if step == "join":
        _join(name, record["vm"])
        return
    held = hotplug.lock(name, 10.0)  # no block script starts a VM meanwhile
    try:
        if step == "apart" and not mine:
            _apart(name, record)
        elif step == "source" and mine:
            _source(name, record)
        else:
            raise Refused(f"{name}: {step} isn't for {record['host']}")
    finally:
        os.close(held)


def _look_good(name: str, record: dict[str, str]) -> events.Resource:
    state = events.one(name)
    changes = [i.get("kind", "?") for i in intents.all_open() if i.get("vm") == record["vm"]]
    if changes:
        raise Refused(f"{name}: a change of its VM ({', '.join(changes)}) is under way", "wait for it to end")
    if state is None or state.disk != events.UP_TO_DATE:
        raise Refused(f"{name}: {record['host']}'s copy isn't UpToDate, so it can't be the good one")
    if state.role != events.PRIMARY:
        raise _not_running(name, record["vm"], record["host"])
    return state


def _look_bad(name: str, record: dict[str, str]) -> events.Resource:
    """The side that is written over: nobody uses it. Raises Refused."""
    host, vm = record["host"], record["vm"]
    running = [domain.name for domain in domains.find(vm)]
    if running:
        raise Refused(
            f"{running[0]} runs on {host}, whose blocks would be changed beneath it",
            f"`xl shutdown -w {running[0]}` there first; or, if {host}'s side is the good one, --good {host}",
        )
    with Xenstore() as store:
        users = [user or str(domid) for domid, user in domains.users_of(store, name)]
    if users:
        raise Refused(f"{name} is in use on {host} by {', '.join(users)}", "stop that first")
    state = events.one(name)
    if state is None:
        raise Refused(f"{name} isn't up on {host}", f"`xenhelper reconcile` on {host}")
    if state.role == events.PRIMARY:
        raise Refused(
            f"{name} is Primary on {host}, held by {verbs.holder(state.minor)}",
            f"let it go, then `xenhelper reconcile` on {host}",
        )
    if not state.in_sync:
        raise Refused(f"{name} isn't Connected and UpToDate on both hosts ({state})", "`xenhelper status`")
    if state.peer_role != events.PRIMARY:
        raise _not_running(name, vm, record["peer"])
    return state


def _not_running(name: str, vm: str, good: str) -> Refused:
    return Refused(
        f"{name}: DRBD copies from the good side only while {vm} runs on {good}",
        f"`xl create` it on {good}, then the same command again",
    )


def _apart(name: str, record: dict[str, str]) -> None:
    """Leave, and be outdated: from here on no VM starts on this side."""
    state = _look_bad(name, record)
    settings = show.one(name)
    if settings is None or not settings.remote:
        raise Refused(f"{name} has no connection", "`xenhelper reconcile`")
    _mark(name)
    verbs.disconnect(settings.local, settings.remote)
    try:
        after = events.one(name)
        if after is not None and after.disk == events.UP_TO_DATE:
            verbs.outdate(state.minor)  # a Secondary that leaves a Primary is already
            after = events.one(name)
        if after is None or after.disk not in events.OUTDATED_OR_WORSE or after.role == events.PRIMARY:
            raise XenhelperError(f"{name}: {record['host']}'s copy isn't outdated ({after})", "try again")
    except XenhelperError:
        _join(name, record["vm"])
        raise


def _source(name: str, record: dict[str, str]) -> None:
    """See that this side has a generation of its own, then offer it again."""
    state = _look_good(name, record)
    if state.connected:
        raise Refused(f"{name}: both sides met again meanwhile", "try again")
    _mark(name)
    if state.connection != "StandAlone":
        settings = show.one(name)
        if settings is not None and settings.remote:
            verbs.disconnect(settings.local, settings.remote)
    try:
        _, bitmap = verbs.generation(state.minor)
        if not bitmap:  # a Primary begins one when the other leaves (drbd_state.c)
            raise XenhelperError(f"{name}: {record['host']} has no generation of its own", "try again")
    finally:
        _join(name, record["vm"])


def _mark(name: str) -> None:
    statefile.write(stop.repairing(name), {"at": f"{time.monotonic():.3f}"})


def _join(name: str, vm: str) -> None:
    statefile.remove(stop.repairing(name))
    state = events.one(name)
    if state is not None and state.connection == "StandAlone":
        bringup.adm(vm, "connect", name)


def _started(name: str, host: str, good: str, bad: str) -> None:
    """Wait until both met, and look which way it goes. Raises XenhelperError."""
    deadline = time.monotonic() + _CONNECT
    while True:
        state = events.one(name)
        if state is not None and state.connected:
            source = state.replication in (_SOURCES if good == host else _TARGETS)
            if source or (state.in_sync and state.out_of_sync == 0):
                return
            if state.replication == "Established" and state.in_sync:
                break
        if time.monotonic() > deadline:
            break
        time.sleep(0.3)
    raise XenhelperError(
        f"{name}: {bad} doesn't sync from {good} ({state}, {state.replication if state else 'not up'})",
        "`xenhelper status` on both hosts, then the same command again",
    )


def _through(name: str, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + _SYNC
    while time.monotonic() < deadline:
        state = events.one(name)
        if state is None or not state.connected:
            raise XenhelperError(
                f"{name}: the connection was lost while it was copied",
                "nothing: DRBD goes on when it is back; then `xenhelper verify`",
            )
        if state.in_sync and state.out_of_sync == 0:
            return
        time.sleep(0.5)
    say(f"{name}: the copying goes on by itself; `xenhelper status` shows it")


def _noted(name: str, octets: int, host: str, good: str, bad: str) -> None:
    from dataclasses import replace

    before = results.read(name)
    if before is not None:
        after = replace(before, state=results.REPAIRED, until=results.now(), differing=octets)
        results.share(after, bad if good == host else good)


def serve(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``verify-repair``: one step, for a person at ``peer``."""
    name, step, good = names.check_resource(args["resource"]), args["step"], args["good"]
    record = statefile.read(f"{paths.RESOURCES}/{name}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name}: not a resource shared with {peer}")
    if step not in STEPS or good not in (peer, record["host"]):
        raise Refused(f"{name}: no such step {step[:20]!r}")
    fd = intents.lock(record["vm"], wait=10.0, who="verify --repair")
    try:
        take(name, step, good)
        return {}
    finally:
        os.close(fd)
