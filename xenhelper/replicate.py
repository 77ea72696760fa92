"""The acting half of Create: what xenhelper.consider found becomes true on both hosts.

All or nothing: until the intents say ``committed`` any failure undoes what this run made,
on both hosts; after it, the next run (or the reconciler) finishes. The peer's steps are in
replicate_peer, those of one host, which both ends share, in provision.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

from xenhelper import (
    allocate,
    consider,
    intents,
    lease,
    log,
    names,
    numbers,
    paths,
    provision,
    replicate_peer,
    rewrite,
    room,
    vmfile,
    volumes,
)
from xenhelper.consider import Considered, Look, Request
from xenhelper.drbd import resfile
from xenhelper.errors import PeerUnreachable, Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.plan import TAKEN, Disk, Plan
from xenhelper.tuning import link
from xenhelper.xen import vmconfig

# seconds: first connection of new resources; the peer's whole part; its leaving us alone
CONNECT = 30.0
PREPARE = 240.0
_SHORT = 6.0


@dataclass(frozen=True)
class Outcome:
    """What a run came to. ``specs``: xl's disk list with the resources in it; ``fresh``:
    what was set up now."""

    found: Considered
    specs: tuple[str, ...]
    fresh: tuple[Disk, ...] = ()


class Background:
    """A call in a thread; :meth:`get` waits for it and returns or raises what it did."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

        def body() -> None:
            try:
                self._result = work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def get(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def wait(self) -> None:
        """Until it has ended, well or not."""
        self._thread.join()


def warn(text: str) -> None:
    """One line for whoever typed the command, and the journal."""
    print(f"xenhelper: {text}", file=sys.stderr)
    log.event("note", text, log.WARNING)


def run(request: Request) -> Outcome:
    """Replicate what policy wants of the VM; running it again does only what is missing.

    Raises XenhelperError: then both hosts are as they were, or an open intent tells the
    next run how far this one came.
    """
    if names.valid_vm(request.vm) and intents.read(provision.KIND, request.vm) is not None:
        # what an interrupted run left would look like somebody else's
        replicate_peer.recover(request.vm)
    found = consider.consider(request)
    if not found.replicated:
        return Outcome(found, ())
    fd = intents.lock(request.vm)
    try:
        if intents.read("forget", request.vm) is not None:
            raise Refused(f"{request.vm} is half forgotten", f"finish it: `xenhelper forget {request.vm}`")
        if replicate_peer.recover(request.vm, held=True) or _stale(found):
            found = consider.consider(request)
        consider.check_here(request.vm)
        outcome = _first(found) if found.fresh else _again(found)
        provision.resources_up(request.vm)
        return outcome
    finally:
        os.close(fd)


def _stale(found: Considered) -> bool:
    """Whether another run changed the VM's records before we had its lock."""
    before = {name for name, record in found.records.items() if record.get("vm") == found.request.vm}
    return before != set(provision.vm_records(found.request.vm))


def _first(found: Considered) -> Outcome:
    """Some disks get their resource now."""
    request = found.request
    there = consider.look(found, tidy=True)
    consider.check(found, there)
    mention_missing(found, there)
    _mention_left(found)
    mention_thin(found, consider.places(found, there))
    if request.stored:
        agreed = vmfile.record(request.vm).get("sha256", "")
        # a conflict shows before anything is made
        vmfile.must_send(request.path, there.file, request.text, request.text, agreed, found.peer)
    plan, text, specs = _set_up(found, there)
    resources = {disk.vdev: disk.resource for disk in plan.fresh} | found.keep
    commit(found, there, plan, text, resources)
    return Outcome(found, tuple(specs), plan.fresh)


def _set_up(found: Considered, there: Look) -> tuple[Plan, str, list[str]]:
    """Numbers, intents, volumes, resources, first sync begun; undone if anything fails."""
    ours, theirs = numbers.leases(found)
    try:
        if intents.read(provision.KIND, found.request.vm) is not None:
            raise Refused(f"{found.request.vm} is being set up from {found.peer} at this moment", "try again")
        slots = numbers.slots_for(found, numbers.survey_of(theirs))
        plan = make_plan(found, there, slots)
        resources = {slot.vdev: slot.resource for slot in slots} | found.keep
        text, specs = rewrite.rewritten(found, resources)
        provision.reserve(plan, provision.SOURCE, ours)
    except BaseException:
        lease.give_back(ours)
        numbers.unlease(found.peer, theirs)
        raise
    request = {"plan": plan.to_json(), "token": theirs["token"]}
    preparing = Background(lambda: ask(found.peer, "replicate-prepare", request, timeout=PREPARE))
    proving = Background(lambda: rewrite.prove(found, text, specs, resources))
    try:
        warnings = provision.build(plan, provision.SOURCE)
        provision.tag_data(plan)
        proving.get()
        for line in [*warnings, *preparing.get().get("warnings", ())]:
            warn(str(line))
        provision.promote_once(plan, CONNECT)
        if found.request.stored and vmfile.read(found.request.path) != found.request.text:
            raise Refused(f"{found.request.path} was changed this very moment", "try again")
    except BaseException:
        proving.wait()
        preparing.wait()
        undo_both(plan, theirs)
        raise
    return plan, text, specs


def undo_both(plan: Plan, theirs: Mapping[str, Any] | None = None) -> None:
    """Best effort on each host; what can't be undone now keeps its intent. ``theirs``: the
    peer's lease, if one was taken."""
    try:
        undone = ask(plan.peer, "replicate-undo", {"vm": plan.vm, "id": plan.id}, timeout=90.0).get("undone")
        if theirs is not None and not undone:
            numbers.unlease(plan.peer, theirs)
    except XenhelperError as error:
        warn(
            f"{plan.vm}: what was begun on {plan.peer} isn't undone yet ({error}); its next reconcile does it"
        )
    try:
        provision.undo(plan.vm, plan.id)
    except XenhelperError as error:
        warn(f"{plan.vm}: what was begun here isn't undone yet ({error}); `xenhelper reconcile` tries again")


def commit(found: Considered, there: Look, plan: Plan, text: str, resources: Mapping[str, str]) -> None:
    """From here on it is finished, whatever happens: records, config on both, intents gone."""
    request = found.request
    provision.commit_intent(plan, provision.SOURCE)
    provision.write_records(plan)
    message: dict[str, object] = {"vm": plan.vm, "id": plan.id}
    with_config(found, there, text, message)
    if request.stored:
        vmfile.rewrite(request.path, text, request.vm)
    _rename(found, resources, message)
    ask(plan.peer, "replicate-commit", message, timeout=40.0)
    _write_vm_record(found, text, settled=not (plan.takes_over and found.fresh))
    provision.done(plan)


def _again(found: Considered) -> Outcome:
    """Every disk has its resource: only the config may have to follow."""
    request = found.request
    text, specs = rewrite.rewritten(found, found.keep)
    outcome = Outcome(found, tuple(specs))
    _mention_left(found)
    record = vmfile.record(request.vm)
    if not request.stored:
        rewrite.prove(found, text, specs, found.keep)
        return outcome
    same = text == request.text and vmconfig.checksum(text) == record.get("sha256")
    if same and record.get("config") == request.path:
        return outcome
    asking = Background(lambda: consider.look(found, _SHORT, tidy=True))
    if text != request.text:
        rewrite.prove(found, text, specs, found.keep)
    message: dict[str, object] = {"vm": request.vm, "id": ""}
    try:
        there = asking.get()
        consider.check(found, there)
        mention_missing(found, there)
        with_config(found, there, text, message)
    except PeerUnreachable as error:
        # a VM whose peer is away goes on living here; the next create sends the change
        warn(f"{request.vm}: its config reaches {found.peer} at a later create: {error}")
        if text != request.text:
            vmfile.rewrite(request.path, text, request.vm)
        return outcome
    if text != request.text:
        vmfile.rewrite(request.path, text, request.vm)
    _rename(found, found.keep, message)
    ask(found.peer, "replicate-commit", message, timeout=40.0)
    _write_vm_record(found, text)
    return outcome


def with_config(found: Considered, there: Look, text: str, message: dict[str, object]) -> None:
    """Add to a commit what the peer needs to have the same config. Raises Conflict."""
    request = found.request
    old = vmfile.record(request.vm)
    message["last_ran"] = found.settings.host
    if not request.stored:
        if not old:
            message.update(config=request.path, agreed="")
        return
    message.update(config=request.path, agreed=vmconfig.checksum(text))
    if not there.storable:
        warn(f"{request.path} isn't copied to {found.peer}: keep it in /etc/xen")
        return
    if vmfile.must_send(request.path, there.file, request.text, text, old.get("sha256", ""), found.peer):
        mode = os.stat(paths.ROOT + request.path).st_mode & 0o777
        message.update(text=text, expected=there.file.sha256, mode=mode)


def _write_vm_record(found: Considered, text: str, settled: bool = True) -> None:
    """``settled``: no disk is left for the next create to replicate."""
    request, host = found.request, found.settings.host
    resources = list(provision.vm_records(request.vm))
    if request.stored:
        agreed = vmconfig.checksum(text) if settled else ""
        vmfile.write_record(request.vm, request.path, agreed, found.peer, resources, host)
    elif not vmfile.record(request.vm):
        vmfile.write_record(request.vm, request.path, "", found.peer, resources, host)


def _rename(found: Considered, resources: Mapping[str, str], message: dict[str, object]) -> None:
    """Note new vdevs of old resources here, and have the peer note them."""
    moved = {}
    for vdev, name in resources.items():
        record = found.records.get(name)
        if record is not None and record.get("vdev") != vdev:
            provision.rename_vdev(name, found.request.vm, vdev)
            moved[name] = vdev
    if moved:
        message["vdevs"] = moved


def _mention_left(found: Considered) -> None:
    """Resources whose disks somebody took out of the config: nothing of them is given up."""
    for name, record in found.records.items():
        if record.get("vm") == found.request.vm and name not in found.keep.values():
            vm = found.request.vm
            warn(
                f"{vm}: {record['volume']} (disk {record.get('vdev')}) isn't in its config any more and "
                f"stays replicated as {name}; `xenhelper forget {vm}` and a new create leave it alone"
            )


def mention_thin(found: Considered, placed: Sequence[room.Place]) -> None:
    """What becomes of thin disks: in the journal, and to whoever types it where it isn't what
    they would expect."""
    said = consider.words(found, placed)
    by_vdev = {item.vdev: place for item, place in zip(found.fresh, placed, strict=True)}
    for vdev, text in said.items():
        if by_vdev[vdev].why:
            warn(f"{found.request.vm}: disk {vdev}: {text}")
        else:
            log.event("note", f"{found.request.vm}: disk {vdev}: {text}", vm=found.request.vm)


def mention_missing(found: Considered, there: Look) -> None:
    if there.missing:
        warn(f"{found.request.vm} couldn't run on {found.peer}, which lacks {', '.join(there.missing)}")


def make_plan(found: Considered, there: Look, slots: Sequence[allocate.Slot]) -> Plan:
    """The plan for all of the VM's resources: those it has, and the fresh ones on ``slots``."""
    request, settings = found.request, found.settings
    peer = settings.peer(found.peer)
    text = resfile.read(request.vm) or ""
    disks = [existing(record, text) for record in found.records.values() if record.get("vm") == request.vm]
    knobs = link.for_pair(link.facts(settings, peer), there.link)
    by_vdev = {slot.vdev: slot for slot in slots}
    for item, place in zip(found.fresh, consider.places(found, there), strict=True):
        assert item.volume is not None
        slot, volume = by_vdev[item.vdev], item.volume
        groups = volume.group, peer.volume_groups[volume.group]
        extents = found.groups[groups[0]].extent, int(there.groups[groups[1]]["extent"])
        meta = volumes.meta_bytes(volume.size, extents[0]), volumes.meta_bytes(volume.size, extents[1])
        numbers = slot.minor, slot.port, volume.size
        secret = resfile.new_secret()
        known = slot.vdev, slot.resource, *numbers, *groups, volume.name, secret, *meta
        disk = Disk(*known, knobs=link.for_disk(knobs, place.granularity), pool=volume.pool)
        disks.append(
            changed(
                disk,
                meta_pool=place.meta_pool,
                peer_pool=place.peer_pool,
                peer_meta_pool=place.peer_meta_pool,
            )
        )
    ends = settings.host, peer.local_replication, found.peer, peer.replication
    return Plan(os.urandom(8).hex(), request.vm, *ends, settings.protocol, tuple(disks))


def existing(record: Mapping[str, str], text: str) -> Disk:
    """A disk that is replicated already, for a plan. ``text``: the resource file as it
    stands. Raises XenhelperError."""
    secrets, knobs = resfile.secrets(text), resfile.knobs(text)
    here, there = volumes.split_path(record["volume"]), volumes.split_path(record["peer_volume"])
    name = record["resource"]
    if here is None or there is None or name not in secrets:
        raise XenhelperError(
            f"{name}: its record and its resource file don't fit together",
            "restore /etc/drbd.d from the other host",
        )
    numbers = int(record["minor"]), int(record["port"]), int(record["size_bytes"])
    groups = here[0], there[0], here[1]
    known = record["vdev"], name, *numbers, *groups, secrets[name], 0, 0
    if record.get(TAKEN) != "yes":
        return Disk(*known, fresh=False, knobs=knobs[name])
    ends = record["meta"], record.get("peer_meta", ""), there[1] if there[1] != here[1] else ""
    return Disk(*known, False, knobs[name], True, *ends)
