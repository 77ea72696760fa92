"""``xenhelper grow``: a replicated disk becomes larger on both hosts while its guest runs.

Volumes first (the peer's, then ours; metadata before data), then DRBD, which takes what
both have and copies what is new, then the records. Each step looks whether it is done
already, so that the command, or the reconciler, goes on from the intent wherever an
earlier run stopped. DRBD takes no new size during a resync: the intent waits for its end.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from xenhelper import (
    growth,
    hotplug,
    insync,
    intents,
    log,
    names,
    paths,
    provision,
    room,
    statefile,
    units,
    volumes,
)
from xenhelper.drbd import events, knobs, verbs
from xenhelper.errors import CommandFailed, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.growth import Side
from xenhelper.peer.client import ask
from xenhelper.plan import INTERNAL

KIND = "grow"
SOURCE, TARGET = "source", "target"
# seconds: the peer's lvextend; DRBD's agreement on the new size; a look of blkback's
_PEER, _AGREE, _SEEN = 150.0, 30.0, 10.0
_LOCK_WAIT = 20.0
_RESYNC = "during resync"
# seconds: how long it is known that the reconciler finished a growth
_REMEMBERED = 86400.0


def run(vm: str, vdev: str, asked: str, dry: bool = False) -> "tuple[list[str], bool]":
    """Grow the disk ``vdev`` of ``vm`` to, or (``+10G``) by, ``asked``: what was (or would be)
    done, a line each, and whether it is done; if not, a resync has to end first.

    Raises Refused, UsageError, XenhelperError; once something has changed, the intent stays.
    """
    record = _record(names.check_vm(vm), vdev)
    fd = intents.lock(vm, who="grow")
    try:
        intent = intents.read(KIND, vm)
        if intent is not None:
            _check_same(intent, vm, vdev, asked)
            if dry:
                return [f"finish growing {intent['resource']} to {_shown(intent)}"], False
            return _again(vm, intent)
        if _finished_alone(record, asked):
            if not dry:
                _drop_mark(record["resource"])
            return [
                f"{record['resource']}: growing it by {asked} was interrupted, and finished at "
                f"{record['grown_at']}: it has {units.size(int(record['size_bytes']))}; "
                "the same command adds to that now"
            ], True
        target, lines = _decide(vm, record, asked)
        if dry or not lines:
            return lines or [f"{record['resource']} has that size already"], True
        intents.write(
            KIND,
            vm,
            role=SOURCE,
            id=os.urandom(8).hex(),
            vdev=vdev,
            resource=record["resource"],
            peer=record["peer"],
            size=str(target),
            asked=asked,
        )
        return _again(vm, intents.read(KIND, vm) or {}, first=True)
    finally:
        os.close(fd)


def _again(vm: str, intent: Mapping[str, str], first: bool = False) -> "tuple[list[str], bool]":
    lines, done = _go(vm, intent, first)
    if done:
        _drop_mark(intent["resource"])
    return lines, done


def _finished_alone(record: Mapping[str, str], asked: str) -> bool:
    """Whether just this was asked for, its command died, and it was finished by the
    reconciler: who types ``+10G`` again then doesn't want it twice."""
    at = insync.seconds(record.get("grown_at", ""))
    return (
        asked.startswith("+")
        and record.get("grown") == asked
        and at is not None
        and 0 <= time.time() - at < _REMEMBERED
    )


def _drop_mark(name: str) -> None:
    """The command lives to say it itself."""
    path = f"{paths.RESOURCES}/{name}"
    record = statefile.read(path)
    if record is not None and "grown" in record:
        statefile.write(path, {key: record[key] for key in record if key not in ("grown", "grown_at")})


def _record(vm: str, vdev: str) -> "dict[str, str]":
    records = provision.vm_records(vm)
    if not records:
        raise XenhelperError(f"{vm} isn't replicated on this host", "`xenhelper status` lists what is")
    for record in records.values():
        if record.get("vdev") == vdev:
            return record
    raise XenhelperError(
        f"{vm} has no replicated disk {vdev[:40]!r} (it has "
        f"{', '.join(sorted(record['vdev'] for record in records.values()))})",
        "a volume that isn't replicated is grown by `lvextend`",
    )


def _check_same(intent: Mapping[str, str], vm: str, vdev: str, asked: str) -> None:
    if intent.get("role") == TARGET:
        raise Refused(
            f"{vm} is being grown from {intent['peer']}: {intent['resource']} to {_shown(intent)}",
            f"type it on {intent['peer']}, or wait until that is done",
        )
    if (intent.get("vdev"), intent.get("asked")) != (vdev, asked):
        raise Refused(
            f"{vm}: {intent['resource']} isn't grown to {_shown(intent)} yet",
            f"finish that first: `xenhelper grow {vm} {intent['vdev']} {intent['asked']}`",
        )


def _shown(intent: Mapping[str, str]) -> str:
    return units.size(int(intent["size"]))


def _decide(vm: str, record: Mapping[str, str], asked: str) -> "tuple[int, list[str]]":
    """The new size and what it takes; no line when there is nothing to do."""
    name, peer = record["resource"], record["peer"]
    state = _able(vm, name, peer)
    here = _side(record)
    there = growth.side_from_json(
        ask(peer, "grow-look", {"vm": vm, "resource": name}, timeout=20.0)["side"]  # type: ignore[arg-type]
    )
    target = growth.wanted(asked, state.size, (here.extent, there.extent))
    growth.check(name, state.size, target, (here, there))
    if target == state.size:
        return target, []
    lines = []
    for side in (there, here):
        if growth.meta_target(side, target) > side.meta_size:
            # enlarging it beneath a DRBD that is up hasn't been proven
            raise Refused(
                f"{name}: its metadata volume {side.meta} on {side.host} has no room for "
                f"{units.size(target)}",
                f"`xenhelper forget {vm}`, `lvextend` of its volume, then `xl create` replicates it anew",
            )
        lines.append(f"{side.host}: {side.volume} from {units.size(side.size)} to {units.size(target)}")
    return target, [*lines, f"{name} from {units.size(state.size)} to {units.size(target)}"]


def _able(vm: str, name: str, peer: str) -> events.Resource:
    """The resource's state. Raises Refused when nothing of it may be changed now."""
    if intents.read("window", vm) is not None:
        raise Refused(f"{vm}: a migration isn't finished", "`xenhelper reconcile` first")
    state = events.one(name)
    if state is None:
        raise Refused(f"{name} isn't up on this host", "`xenhelper resources-up` says why")
    if not state.connected:
        raise Refused(
            f"{name} isn't connected to {peer}: both copies grow together",
            f"bring {peer} and the link back first; `xenhelper status {vm}` shows it",
        )
    return state


def _side(record: Mapping[str, str]) -> Side:
    """This host's end of a disk. Raises XenhelperError when a volume isn't what its tags say,
    or can't be changed now."""
    provision.require_writable()
    data, meta, groups, known = _volumes(record)
    group, other = groups[data.group], groups[meta.group]
    pool = room.pools(known).get(data.group, {}).get(data.pool)
    return Side(
        os.uname().nodename,
        data.path,
        data.size,
        meta.path,
        meta.size,
        group.extent,
        group.free,
        other.extent,
        data.kind,
        data.pool,
        pool.free if pool is not None else 0,
        knobs.checked(json.loads(record.get("knobs", "{}"))).rs_discard_granularity > 0,
    )


def _volumes(
    record: Mapping[str, str],
) -> "tuple[volumes.Volume, volumes.Volume, dict[str, volumes.Group], list[volumes.Volume]]":
    """Data, metadata, and all groups and volumes of this host."""
    if record["meta"] == INTERNAL:
        raise Refused(
            f"{record['resource']} was made by hand with its metadata on its own volume, which isn't grown "
            "from here",
            f"`xenhelper forget {record['vm']}`, grow it by hand, then `xenhelper convert {record['vm']}`",
        )
    known, groups = volumes.facts()
    by_path = {volume.path: volume for volume in known}
    found = []
    for path in (record["volume"], record["meta"]):
        volume = by_path.get(path)
        if volume is None:
            raise XenhelperError(
                f"{record['resource']}: there is no volume {path} on {os.uname().nodename}",
                "`lvs -o lv_name,lv_tags` shows whether it was renamed; name it back with lvrename",
            )
        if volume.tag("resource") != record["resource"]:
            raise Refused(
                f"{path} on {os.uname().nodename} isn't marked as {record['resource']}'s by its tags"
            )
        found.append(volume)
    return found[0], found[1], groups, known


def _extend(record: Mapping[str, str], target: int) -> None:
    """This host's volumes to ``target`` bytes of data: room for metadata comes first (there
    is some, by _decide; a smaller one is left from another version)."""
    data, meta, groups, _ = _volumes(record)
    volumes.extend(meta, volumes.meta_bytes(target, groups[meta.group].extent))
    volumes.extend(data, target)


def _go(vm: str, intent: Mapping[str, str], first: bool = False) -> "tuple[list[str], bool]":
    """All steps from the intent on. Precondition: the VM's lock is held."""
    name, peer, target = intent["resource"], intent["peer"], int(intent["size"])
    record = provision.vm_records(vm).get(name)
    if record is None:
        intents.remove(KIND, vm)  # forgotten meanwhile
        raise XenhelperError(f"{name} isn't replicated any more")
    state = _able(vm, name, peer)
    request: "dict[str, object]" = {"vm": vm, "resource": name, "id": intent["id"]}
    if state.size < target:
        try:
            ask(peer, "grow-volumes", {**request, "size": target}, timeout=_PEER)
        except PeerFailed:
            if first:
                intents.remove(KIND, vm)  # it changed nothing of the disk, and nor did we
            raise
        _extend(record, target)
        state = _able(vm, name, peer)
    if state.size < target and (state.replication != "Established" or not _resize(name, state, target)):
        return [
            f"{name}: the volumes have {units.size(target)} on both hosts; DRBD takes them once its "
            f"resync is through ({_percent(state)}), by itself"
        ], False
    if not first and state.role == events.PRIMARY:
        _step_back(name)  # an earlier run may have died between its promotion and this
    answer = ask(peer, "grow-finish", request, timeout=30.0)
    _finish(vm, name, intent["asked"])
    seen = _seen(name) if answer.get("seen") is None else bool(answer["seen"])
    log.event("note", f"{name} has {units.size(target)} now", log.NOTICE, vm=vm, resource=name, peer=peer)
    lines = [f"{name} has {units.size(target)} now, on {os.uname().nodename} and {peer}"]
    if seen is False:
        lines.append(f"{vm} hasn't noticed yet: it sees the new size after its next start at the latest")
    return lines, True


def _percent(state: events.Resource) -> str:
    """How far a resync is, for a person."""
    return f"{state.done_percent:.0f} % done" if state.done_percent is not None else state.replication


def _resize(name: str, state: events.Resource, target: int) -> bool:
    """Have DRBD take the volumes' size. False: a resync has begun meanwhile."""
    held = -1
    try:
        if events.PRIMARY not in (state.role, state.peer_role):
            # DRBD wants one Primary: this host for a moment, before any guest may be one
            held = hotplug.lock(name, 15.0)
            state = events.one(name) or state
            if not state.in_sync:
                return False
            if state.peer_role != events.PRIMARY and state.role != events.PRIMARY:
                verbs.primary(state.minor)
        verbs.resize(state.minor)
        _agreed(name, target)
        return True
    except CommandFailed as error:
        if _RESYNC in error.stderr.lower():
            return False
        raise
    finally:
        if held >= 0:
            _step_back(name)
            os.close(held)


def _step_back(name: str) -> None:
    """Secondary again, if this host is Primary and no guest's disk needs it."""
    state = events.one(name)
    if state is not None and state.role == events.PRIMARY and not _used(name):
        verbs.secondary(state.minor, name=name)


def _used(name: str) -> bool:
    from xenhelper.xen import domains
    from xenhelper.xen.xenstore import Xenstore

    with Xenstore() as store:
        return bool(domains.users_of(store, name))


def _agreed(name: str, target: int) -> None:
    deadline = time.monotonic() + _AGREE
    while True:
        state = events.one(name)
        if state is not None and state.size >= target:
            return
        if time.monotonic() > deadline:
            have = units.size(state.size) if state is not None else "gone"
            raise XenhelperError(
                f"{name}: DRBD stays at {have} although both volumes have {units.size(target)}",
                "`journalctl -k` on both hosts says why; then the same command again",
            )
        time.sleep(0.2)


def _seen(name: str) -> "bool | None":
    """Whether the guest was told its disk's new size; None when none here uses it. blkback
    looks several times a second, and tells the frontend by its own state."""
    from xenhelper.xen import domains
    from xenhelper.xen.xenstore import Xenstore

    state = events.one(name)
    deadline = time.monotonic() + _SEEN
    with Xenstore() as store:
        while True:
            told = domains.sectors_of(store, name)
            if state is None or not told:
                return None
            if all(sectors * 512 >= state.size for sectors in told):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)


def _finish(vm: str, name: str, asked: str = "") -> None:
    """Note the size that the kernel has now, and here what was ``asked``; nothing is left
    to do on this host."""
    state = events.one(name)
    path = f"{paths.RESOURCES}/{name}"
    record = statefile.read(path)
    if state is not None and record is not None and state.size:
        mark = {"grown": asked, "grown_at": insync.stamp(time.time())} if asked else {}
        statefile.write(path, {**record, "size_bytes": str(state.size), **mark})
    intents.remove(KIND, vm)


def _served(peer: str, args: Mapping[str, Any]) -> "dict[str, str]":
    """The record that a request is about. Raises Refused when it isn't one of ``peer``'s."""
    vm, name = names.check_vm(args["vm"]), names.check_resource(args["resource"])
    record = provision.vm_records(vm).get(name)
    if record is None or record.get("peer") != peer:
        raise Refused(f"{name} of {vm} isn't replicated between {peer} and {os.uname().nodename}")
    return record


def serve_look(peer: str, args: "dict[str, Any]") -> "dict[str, Any]":
    """Verb ``grow-look``: this host's volumes of a disk. Changes nothing."""
    return {"side": _side(_served(peer, args)).to_json()}


def serve_volumes(peer: str, args: "dict[str, Any]") -> "dict[str, Any]":
    """Verb ``grow-volumes``: this host's volumes become as large as agreed. Asking again does
    no harm; a failure leaves the data volume as it was."""
    record = _served(peer, args)
    vm, name, target = args["vm"], args["resource"], args["size"]
    fd = intents.lock(vm, wait=_LOCK_WAIT, who="grow")
    try:
        state = _able(vm, name, peer)
        if not args["id"].isalnum() or target % 512 or not state.size <= target < growth.MAX:
            raise Refused(f"{name} can't become {target} bytes on {os.uname().nodename}")
        intent = intents.read(KIND, vm)
        if intent is not None and intent.get("id") != args["id"] and intent.get("role") != TARGET:
            raise Refused(
                f"{vm} is being grown on {os.uname().nodename}: {intent['resource']}", "let that end first"
            )
        fields = {"role": TARGET, "id": args["id"], "vdev": record["vdev"], "resource": name}
        intents.write(KIND, vm, **fields, peer=peer, size=str(target))
        try:
            _extend(record, target)
        except CommandFailed:
            intents.remove(KIND, vm)
            raise
        return {}
    finally:
        os.close(fd)


def serve_finish(peer: str, args: "dict[str, Any]") -> "dict[str, Any]":
    """Verb ``grow-finish``: note the new size and close the intent. ``seen``: see _seen."""
    record = _served(peer, args)
    vm, name = args["vm"], args["resource"]
    fd = intents.lock(vm, wait=_LOCK_WAIT, who="grow")
    try:
        intent = intents.read(KIND, vm)
        if intent is not None and intent.get("role") == TARGET and intent.get("id") == args["id"]:
            _agreed(name, int(intent["size"]))
            _finish(vm, name)
        return {"seen": _seen(record["resource"])}
    finally:
        os.close(fd)


def serve_state(peer: str, args: "dict[str, Any]") -> "dict[str, Any]":
    """Verb ``grow-state``: whether this host still has the intent that the asker knows of."""
    intent = intents.read(KIND, names.check_vm(args["vm"]))
    return {"open": intent is not None and intent.get("id") == args["id"] and intent.get("role") == SOURCE}


def recover(vm: str) -> str:
    """For the reconciler, which holds the VM's lock: go on, if it can be. Returns what was
    done, '' when nothing was due or something has to come first. Raises XenhelperError."""
    intent = intents.read(KIND, vm)
    if intent is None:
        return ""
    state = events.one(intent["resource"])
    if state is None or not state.connected:
        return ""  # status says so
    if state.replication != "Established" and state.size < int(intent["size"]):
        return ""  # the resync comes first
    try:
        if intent.get("role") == SOURCE:
            lines, done = _go(vm, intent)
            return lines[0] if done else ""
        if ask(intent["peer"], "grow-state", {"vm": vm, "id": intent["id"]}, timeout=10.0).get("open"):
            return ""  # that host goes on with it
    except PeerUnreachable:
        return ""
    _finish(vm, intent["resource"])
    return f"{intent['resource']} was grown from {intent['peer']}"
