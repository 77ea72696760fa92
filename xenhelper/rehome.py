"""The acting half of a replacement (replace.py): the second copy of a VM moves to another host.

Under a ``replace`` intent on the host that keeps its copy. ``open``: the new host makes its
half, the old one takes its own out of service (shelf.py); ``switching``: the resources here
leave the old connection and take the new one, the guest going on; ``committed``: records and
config follow. Cut short it is undone, or finished where all resources talk to the new host.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xenhelper import (
    intents,
    lease,
    log,
    moved,
    numbers,
    paths,
    provision,
    splitbrain,
    statefile,
    vmfile,
    volumes,
)
from xenhelper.consider import Considered, Look
from xenhelper.drbd import bringup, proc, resfile, show, verbs
from xenhelper.errors import Busy, CommandFailed, PeerFailed, PeerUnreachable, XenhelperError
from xenhelper.plan import Plan, from_json
from xenhelper.xen import vmconfig

KIND = "replace"
OPEN, SWITCHING, COMMITTED = provision.OPEN, "switching", provision.COMMITTED
# seconds: the new host's volumes and resources; the first connection; the old host's part
_PREPARE = 240.0
_CONNECT = 45.0
_RETIRE = 90.0


@dataclass(frozen=True)
class Move:
    """``plan``: all of the VM's disks between this host and the new one, as if fresh. ``old``:
    the host that has the second copy until now; ``alive``: it takes part. ``half``: what tells
    its half from others (moved.half)."""

    plan: Plan
    old: str
    alive: bool
    half: Mapping[str, str]

    def write(self, state: str, **more: str) -> None:
        """The intent, with what it takes to go on."""
        text = json.dumps(self.plan.to_json(), separators=(",", ":"))
        alive = "yes" if self.alive else "no"
        fields = {"id": self.plan.id, "state": state, "peer": self.plan.peer, "old": self.old, "alive": alive}
        intents.write(KIND, self.plan.vm, **fields, **self.half, **more, plan=text)


def _read(intent: Mapping[str, str]) -> Move:
    half = {"was": intent["was"], "ports": intent["ports"]}
    return Move(from_json(intent["plan"]), intent["old"], intent.get("alive") == "yes", half)


@dataclass(frozen=True)
class Config:
    """The VM's config for the new host: our reading of it, and what is there already."""

    found: Considered
    there: Look


def _ask(peer: str, verb: str, args: dict[str, object], timeout: float) -> dict[str, Any]:
    from xenhelper.peer import client

    return client.ask(peer, verb, args, timeout=timeout)


def _before(vm: str) -> str:
    """The resource file of the old pair, until nothing is undone any more."""
    return f"{paths.STATE}/res-before/{vm}"


def carry_out(move: Move, ours: str, theirs: Mapping[str, Any], config: Config | None) -> list[str]:
    """Do it all; warnings. ``ours``, ``theirs``: both allocation leases. Precondition: the VM's
    lock is held. Raises XenhelperError: then it is as it was, or the intent tells how far it is."""
    plan = move.plan
    with lease.used(ours):
        move.write(OPEN)
    try:
        request: dict[str, object] = {"plan": plan.to_json(), "token": theirs["token"]}
        warnings = _ask(plan.peer, "replicate-prepare", request, _PREPARE).get("warnings", ())
        if move.alive:
            retire = {"vm": plan.vm, "id": plan.id, "to": plan.peer, "dry": False}
            _ask(move.old, "replace-retire", retire, _RETIRE)
        _switch(move)
    except BaseException:
        try:
            _undo(move)
        except XenhelperError as error:
            log.event("failed", f"{plan.vm}: not undone yet: {error}", log.WARNING, vm=plan.vm)
        numbers.unlease(plan.peer, theirs)
        raise
    return [*(str(line) for line in warnings), *_commit(move, config)]


def _switch(move: Move) -> None:
    """From the old host to the new one. Raises XenhelperError when that doesn't connect."""
    plan = move.plan
    text = resfile.read(plan.vm)
    if text is None or not resfile.is_ours(text, plan.vm):
        raise XenhelperError(
            f"{resfile.path(plan.vm)} isn't xenhelper's", "`xenhelper reconcile`, then again"
        )
    statefile.write_atomically(_before(plan.vm), text.encode())
    marks = {disk.resource: list(verbs.uuids(disk.minor)) for disk in plan.disks}
    move.write(SWITCHING, generations=json.dumps(marks))
    for disk in plan.disks:
        _disconnect(disk.resource)
    statefile.write_atomically(resfile.path(plan.vm), plan.resource_file().encode())
    for disk in plan.disks:
        bringup.up(plan.vm, disk.resource)
    by_minor = {disk.minor: disk for disk in plan.disks}
    missing = proc.wait_connected(list(by_minor), _CONNECT)
    if missing:
        one = by_minor[missing[0]]
        raise XenhelperError(
            f"{one.resource} doesn't connect to {plan.peer} ({plan.peer_address} port {one.port}) within "
            f"{_CONNECT:g} s",
            "look at the replication link",
        )


def _disconnect(name: str) -> None:
    settings = show.one(name)
    if settings is not None and settings.local and settings.remote:
        verbs.disconnect(settings.local, settings.remote)


def _undo(move: Move) -> None:
    """Back to the old pair. Raises XenhelperError when a host that has to take part in it
    doesn't; the intent then stays."""
    plan, vm = move.plan, move.plan.vm
    intent = intents.read(KIND, vm) or {}
    if intent.get("state") == SWITCHING and not os.path.exists(_before(vm)):
        _undone(plan)  # that file goes last: only the intent was left
        return
    fresh = False
    if intent.get("state") == SWITCHING:
        for disk in plan.disks:
            _disconnect(disk.resource)
        fresh = _was_filled(plan, json.loads(intent.get("generations", "{}")))
        with open(_before(vm), "rb") as file:
            statefile.write_atomically(resfile.path(vm), file.read())
    if move.alive:
        _ask(move.old, "replace-return", {"vm": vm, "id": plan.id, "fresh": fresh}, _RETIRE)
    if intent.get("state") == SWITCHING:
        for disk in plan.disks:
            bringup.up(vm, disk.resource)
    try:
        _ask(plan.peer, "replicate-undo", {"vm": vm, "id": plan.id}, 90.0)
    except (PeerUnreachable, PeerFailed) as error:
        # its own intent is there, and asks how this one ended
        log.event("note", f"{vm}: {plan.peer} undoes its part later: {error}", log.NOTICE, vm=vm)
    statefile.remove(_before(vm))
    _undone(plan)


def _undone(plan: Plan) -> None:
    """All is as it was: the intent goes, and it is said."""
    vm = plan.vm
    intents.remove(KIND, vm)
    text = f"{vm}: undid a move of its second copy to {plan.peer}"
    log.event("note", text, log.NOTICE, vm=vm, intent=f"{KIND}-{vm}")


def _was_filled(plan: Plan, marks: Mapping[str, list[int]]) -> bool:
    """Whether anything was copied to the new host. DRBD's one bitmap says since then what that
    host lacks, not what the old one lacks, and by the generations alone DRBD could take the
    one for the other (drbd_uuid_compare, rule 71): the old one then gets everything."""
    return any(not untouched(marks.get(disk.resource, []), verbs.uuids(disk.minor)) for disk in plan.disks)


def untouched(before: Sequence[int], now: Sequence[int]) -> bool:
    """Whether between ``before`` and ``now``, both the four generation UUIDs of one disk, no
    other host was connected (pure). A Primary that lost its peer begins a new generation and
    keeps the peer's in the bitmap's place; a resync leaves a UUID of its own there, and in the
    history when it is through (drbd_uuid_new_current, drbd_gen_and_send_sync_uuid)."""
    before, now = tuple(before), tuple(now)
    if len(before) != 4 or before == now:
        return before == now
    return before[1] == 0 and (now[1], *now[2:]) == (before[0], *before[2:])


def _commit(move: Move, config: Config | None) -> list[str]:
    """From here on it is finished, whatever happens. Returns warnings. Each step may be done
    again."""
    from xenhelper import replicate, rewrite

    plan, vm = move.plan, move.plan.vm
    move.write(COMMITTED)
    host, said, text, sent = plan.host, [], "", False
    message: dict[str, object] = {"vm": vm, "id": plan.id, "replaced": {"host": move.old, **move.half}}
    if config is not None:
        text = rewrite.rewritten(config.found, config.found.keep)[0]
        try:
            replicate.with_config(config.found, config.there, text, message)
            sent = True
        except XenhelperError as error:
            said.append(f"its config stays as {plan.peer} has it: {error}")
    moved.write(vm, move.old, (host, plan.peer), move.half)
    for other in (host, plan.peer):
        moved.drop(vm, other)
    _records(plan)
    record = vmfile.record(vm)
    path = record.get("config", "")
    if config is not None and sent and text != config.found.request.text:
        vmfile.rewrite(path, text, vm)
    auto = _autostart(path) if "text" in message else ""
    if auto:
        message["autostart"] = auto
    _ask(plan.peer, "replicate-commit", message, 40.0)
    last_ran = record.get("last_ran", "")
    new = {
        "peer": plan.peer,
        "sha256": vmconfig.checksum(text) if sent else "",
        "last_ran": host if last_ran in ("", move.old) else last_ran,
    }
    statefile.write(f"{paths.VMS}/{vm}", {**record, **new})
    statefile.remove(_before(vm))
    intents.remove(KIND, vm)
    log.event(
        "replicated",
        f"{vm}: its second copy is on {plan.peer} now, no longer on {move.old}",
        log.NOTICE,
        vm=vm,
        peer=plan.peer,
        intent=f"{KIND}-{vm}",
    )
    return said


def _autostart(path: str) -> str:
    from xenhelper import shelf

    return shelf.autostarted(path) if path.startswith("/") else ""


def _records(plan: Plan) -> None:
    """What this host keeps of each resource names the new pair; what was known of the old
    copy counts no more."""
    known = {volume.path: volume for volume in volumes.volumes()}
    for disk in plan.disks:
        name = disk.resource
        old = statefile.read(f"{paths.RESOURCES}/{name}") or {}
        record = plan.record(disk, old.get("created", ""))
        tags = volumes.tags_for(plan.vm, name, disk.minor, disk.port)
        for path in (record["volume"], record["meta"]):
            volume = known.get(path)
            if volume is not None:
                drop = [tag for tag in volume.tags if tag.startswith("xenhelper.port=") and tag not in tags]
                volumes.change_tags(path, add=tags, drop=drop)
        splitbrain.clear(name)
        statefile.remove(f"{paths.STATE}/ceded/{name}")
        statefile.remove(f"{paths.STATE}/verify/{name}")
        statefile.write(f"{paths.RESOURCES}/{name}", {**old, **record, "run": plan.id})


def recover(vm: str) -> str:
    """For the reconciler and the next run, who hold the VM's lock: finish or undo one that was
    cut short. Returns what was done, '' when nothing was due. Raises XenhelperError."""
    intent = intents.read(KIND, vm)
    if intent is None:
        return ""
    move = _read(intent)
    if intent.get("state") != COMMITTED and not (intent.get("state") == SWITCHING and _talks(move.plan)):
        _undo(move)
        return "undone"
    from xenhelper import replace

    if intent.get("state") == COMMITTED:
        _records(move.plan)  # some name the old pair yet
    try:
        config = replace.config_for(vm, move.plan.peer)
    except (PeerUnreachable, Busy):
        raise
    except (XenhelperError, SystemExit) as error:
        log.event("note", f"{vm}: its config isn't sent along: {error}", log.WARNING, vm=vm)
        config = None
    _commit(move, config)
    return "finished"


def _talks(plan: Plan) -> bool:
    """Whether every resource is connected to the new host."""
    states = proc.read()[1]
    for disk in plan.disks:
        state = states.get(disk.minor)
        try:
            settings = show.one(disk.resource)
        except CommandFailed:
            return False
        wanted = resfile.endpoint(plan.peer_address, disk.port)
        if state is None or not state.talks or settings is None or settings.remote != wanted:
            return False
    return True
