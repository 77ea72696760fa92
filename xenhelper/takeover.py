"""``xenhelper takeover``: the other host is dead, its VMs may start here.

Nobody can tell a dead host from one that can't be reached. So it takes a fence command
that has cut the peer's power, or a person's word; and no sign of life on any path. From
then on, until the peer returns or this host reboots, the VMs start with plain ``xl
create``. What is lost is shown first: this copy's age.
"""

import fnmatch
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xenhelper import (
    alerts,
    ceded,
    config,
    dead,
    insync,
    intents,
    log,
    moved,
    names,
    paths,
    permits,
    statefile,
    virt,
)
from xenhelper.drbd import events, verbs
from xenhelper.errors import CommandFailed, Refused, XenhelperError
from xenhelper.run import run as program
from xenhelper.xen import domains

Say = Callable[[str], None]

PERMIT, FORCE, NOTHING = "permit", "force", "nothing"
# copies that hold a whole state of the disk, if perhaps an old one
_WHOLE = (events.UP_TO_DATE, events.CONSISTENT, "Outdated")
_FENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Copy:
    """This host's copy of one disk. ``as_of``: seconds since 1970 at which it certainly
    was current, 0 when nobody knows; ``alone``: this host wrote to it after that."""

    resource: str
    minor: int
    state: events.Resource | None
    as_of: float
    alone: bool = False
    peer: str = "the other host"


def judge(copy: Copy, now: float, limit: float, accept: float | None, oldest: float | None = None) -> str:
    """PERMIT, FORCE (its disk state says that it isn't current) or NOTHING (it is in use
    here). Pure. ``oldest``: of all the VM's disks. Raises Refused with what it would take: a
    moment that does for all of them."""
    name, state = copy.resource, copy.state
    enough = insync.stamp(copy.as_of if oldest is None else oldest)
    if state is None:
        raise Refused(f"{name} isn't up on this host", "`xenhelper resources-up` says why")
    if state.connected:
        raise Refused(
            f"{name} is connected to {copy.peer}, so that lives",
            f"`xl migrate` on {copy.peer} moves what runs there; `xenhelper status` shows it",
        )
    if state.role == events.PRIMARY:
        return NOTHING
    if state.disk not in _WHOLE:
        raise Refused(
            f"{name}: this host's copy is {state.disk}: there is no whole state of the disk to start from",
            "the other host's disk, or a backup, is what is left",
        )
    current = state.disk == events.UP_TO_DATE
    if current and now - copy.as_of <= limit:
        return PERMIT
    why = "is older than the limit" if current else f"is {state.disk}: the other host may have newer data"
    if accept is None:
        raise Refused(
            f"{name}: this host's copy {why}; it was last known to be current {when(copy.as_of, now)}",
            f"to lose what was written since: --accept-data-as-of {enough}",
        )
    if accept > copy.as_of:
        raise Refused(
            f"{name}: this host's copy is older than what you accept: it was last known to be current "
            f"{when(copy.as_of, now)}",
            f"--accept-data-as-of {enough} accepts that",
        )
    return PERMIT if current else FORCE


def when(moment: float, now: float) -> str:
    """A moment and how long ago it was, for a person."""
    if moment <= 0:
        return "at a time that isn't known"
    ago = max(0, int(now - moment))
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if ago >= 2 * size:
            return f"{insync.stamp(moment)} ({ago // size} {unit} ago)"
    return f"{insync.stamp(moment)} ({ago} seconds ago)"


def ordered(vms: Iterable[str], priority: Iterable[str]) -> list[str]:
    """By the first pattern that fits, then by name."""
    patterns = list(priority)

    def rank(vm: str) -> tuple[int, str]:
        fits = (at for at, pattern in enumerate(patterns) if fnmatch.fnmatchcase(vm, pattern))
        return next(fits, len(patterns)), vm

    return sorted(vms, key=rank)


def fitting(order: Iterable[str], need_kib: dict[str, int], free_kib: int) -> tuple[list[str], list[str]]:
    """(those that fit into ``free_kib`` in this order, those that don't). Pure."""
    fits, left = [], []
    for vm in order:
        if need_kib.get(vm, 0) <= free_kib:
            free_kib -= need_kib.get(vm, 0)
            fits.append(vm)
        else:
            left.append(vm)
    return fits, left


def run(
    vms: list[str],
    everything: bool,
    peer_is_dead: bool,
    accept: float | None,
    dry_run: bool,
    say: Say,
    of_peer: str = "",
) -> list[str]:
    """Take over ``vms``, or all that have their other copy on the one peer (``of_peer``, where
    there are several). Returns what was refused of ``everything``, one line each. Raises Refused."""
    settings = config.load()
    records = _records()
    chosen = sorted({record["vm"] for record in records}) if everything else vms
    for vm in chosen:
        if not any(record["vm"] == vm for record in records):
            raise Refused(f"{vm}: no replicated VM on this host", "`xenhelper status` lists them")
    if everything and of_peer:
        chosen = sorted({record["vm"] for record in records if record["peer"] == of_peer})
    peers = {record["peer"] for record in records if record["vm"] in chosen}
    if len(peers) > 1:
        raise Refused(
            f"these VMs have different other hosts: {', '.join(sorted(peers))}",
            "name one's VMs, or `xenhelper takeover --all --peer HOST`",
        )
    if not peers:
        raise Refused("no VM is replicated on this host")
    peer = settings.peer(peers.pop())
    _not_moved(sorted(set(settings.peers) - {peer.name}), chosen, records)
    order = ordered(chosen, settings.priority)
    now = time.time()
    actions: dict[str, list[tuple[Copy, str]]] = {}
    refused: dict[str, Refused] = {}
    states = events.snapshot()
    for vm in order:
        copies = [_copy(record, states) for record in records if record["vm"] == vm]
        oldest = min(copy.as_of for copy in copies)
        try:
            actions[vm] = [(copy, judge(copy, now, settings.oldest_data, accept, oldest)) for copy in copies]
        except Refused as error:
            if not everything:
                raise
            refused[vm] = error
    if not actions:
        return [str(error) for error in refused.values()]
    _stake(peer.name, actions, now, say)
    _prove(peer, peer_is_dead, dry_run, say)
    for vm, todo in actions.items():
        if not dry_run:
            _take(vm, peer.name, todo)
        if all(action == NOTHING for _, action in todo):
            say(f"{vm}: runs here already")
        elif dry_run:
            say(f"{vm}: would be allowed to start here")
    _next(actions, say)
    return [str(error) for error in refused.values()]


def _not_moved(others: Iterable[str], chosen: Iterable[str], records: list[dict[str, str]]) -> None:
    """Raises Refused when another host says that a VM was moved away from here meanwhile."""
    told = moved.asked(others)
    for vm in chosen:
        mine = [record for record in records if record["vm"] == vm]
        for note in told.get(vm, ()):
            if moved.fits(note, mine):
                hosts = " and ".join(note.get("hosts", "").split(","))
                raise Refused(f"{vm}: {hosts} have it now, and the copy here is an old one", "start it there")


def _records() -> list[dict[str, str]]:
    found = (statefile.read(f"{paths.RESOURCES}/{name}") for name in statefile.names(paths.RESOURCES))
    return [record for record in found if record and record.get("vm") and record.get("peer")]


def _copy(record: dict[str, str], states: dict[str, events.Resource]) -> Copy:
    name = record["resource"]
    state = states.get(name)
    as_of = insync.last(name) or 0.0
    if insync.ahead(as_of):
        as_of = 0.0
    alone = False
    if state is not None and state.disk in _WHOLE:
        try:
            alone = verbs.generation(state.minor)[1] != 0
        except XenhelperError:
            alone = False
    return Copy(name, state.minor if state else -1, state, as_of, alone, record["peer"])


def _stake(peer: str, actions: dict[str, list[tuple[Copy, str]]], now: float, say: Say) -> None:
    say(
        f"If {peer} isn't dead, taking over makes two running copies of each VM, whose disks can't be "
        f"brought together again: one side's writes are lost. What {peer} wrote after the moments below, "
        "and at protocol A the last writes before, are lost in any case."
    )
    for todo in actions.values():
        for copy, _ in todo:
            more = "; this host wrote to it after that" if copy.alone else ""
            disk = copy.state.disk if copy.state else "?"
            say(f"  {copy.resource}: {disk}, last in sync {when(copy.as_of, now)}{more}")


def _prove(peer: config.Peer, peer_is_dead: bool, dry_run: bool, say: Say) -> None:
    """Raises Refused unless the peer is dead by proof or word, and shows no sign of life."""
    from xenhelper import alive

    sign = alive.sign_of_life(peer)
    if sign:
        dead.heard(peer.name)
        raise Refused(
            f"{peer.name} isn't dead: {sign}",
            f"move its VMs from there with `xl migrate`, or switch {peer.name} off first",
        )
    if dead.holds(peer.name):
        return  # proven or stated earlier, and it hasn't returned since
    if peer.fence_command and not peer_is_dead:
        if dry_run:
            say(f"would fence {peer.name}: {' '.join(peer.fence_command)}")
            return
        say(f"fencing {peer.name}")
        try:
            program(list(peer.fence_command), timeout=_FENCE_SECONDS)
        except CommandFailed as error:
            raise Refused(
                f"{peer.name} isn't proven dead: {error}",
                "switch it off yourself, then add --peer-is-dead",
            ) from error
        sign = alive.sign_of_life(peer)
        if sign:
            raise Refused(f"the fence command says that {peer.name} is off, but {sign}", "look at it")
        why = "fence command"
    elif peer_is_dead:
        why = "an operator's word"
    else:
        raise Refused(
            f"nothing proves that {peer.name} is dead, and only its link may be",
            f"switch {peer.name} off, then add --peer-is-dead; or configure fence_command",
        )
    if not dry_run:
        dead.note(peer.name, why)
        log.event("takeover", f"{peer.name} is dead by {why}", log.WARNING, peer=peer.name)


def _take(vm: str, peer: str, todo: list[tuple[Copy, str]]) -> None:
    """Permits for one VM's disks, under its lock and an intent."""
    fd = intents.lock(names.check_vm(vm), wait=15.0, who="takeover")
    try:
        intents.write("takeover", vm, peer=peer, resources=",".join(copy.resource for copy, _ in todo))
        for copy, action in todo:
            if action == NOTHING:
                continue
            if action == FORCE:
                # DRBD makes a new generation here, and takes the peer's copy for outdated
                verbs.primary(copy.minor, force=True)
                verbs.secondary(copy.minor, 5.0, name=copy.resource)
            ceded.forget(copy.resource)
            permits.grant_takeover(copy.resource, copy.minor)
            log.event(
                "takeover",
                f"{copy.resource}: may start here without {peer} (data of {insync.stamp(copy.as_of)})",
                log.WARNING,
                vm=vm,
                resource=copy.resource,
                intent=f"takeover-{vm}",
            )
        if not dead.holds(peer):
            # heard of meanwhile, by somebody who may have looked before the last of these permits
            undo(vm)
            raise Refused(f"{vm} isn't taken over: {peer} has just come back", f"`xenhelper status {vm}`")
        intents.remove("takeover", vm)
    finally:
        os.close(fd)
    if any(action != NOTHING for _, action in todo):
        oldest = min(copy.as_of for copy, _ in todo)
        alerts.try_raise(
            "takeover",
            vm,
            f"{vm} was taken over: it may start here without {peer} (data of {insync.stamp(oldest)})",
            f"when {peer} is back both resync by themselves: `xenhelper status {vm}`",
            vm=vm,
        )


def undo(vm: str) -> None:
    """An interrupted takeover, by whoever holds the lock: what was permitted isn't, unless it
    is in use. The command can be given again."""
    intent = intents.read("takeover", vm) or {}
    states = events.snapshot()
    for name in filter(None, intent.get("resources", "").split(",")):
        state = states.get(names.check_resource(name))
        if state is None or state.role != events.PRIMARY:
            permits.revoke(name)
        elif not _users(name):
            verbs.secondary(state.minor, 5.0, name=name)
            permits.revoke(name)
    intents.remove("takeover", vm)
    text = f"{vm}: an interrupted takeover is undone"
    log.event("takeover", text, log.NOTICE, vm=vm, intent=f"takeover-{vm}")


def _users(name: str) -> bool:
    from xenhelper.xen.xenstore import Xenstore

    with Xenstore() as store:
        return bool(domains.users_of(store, name))


def _next(actions: dict[str, list[tuple[Copy, str]]], say: Say) -> None:
    """Which to start, in order, and which this host's memory doesn't hold."""
    from xenhelper import destination

    startable, need = [], {}
    configs = {}
    for vm, todo in actions.items():
        if all(action == NOTHING for _, action in todo):
            continue
        startable.append(vm)
        configs[vm] = (statefile.read(f"{paths.VMS}/{vm}") or {}).get("config", "")
        need[vm] = _memory_kib(configs[vm])
    if not startable:
        return
    try:
        info = destination.xen_info()
        free = int(info.get("free_memory", "0")) * 1024
        if destination.autoballoon(info):
            free = 1 << 50  # xl makes dom0 smaller for it; it says so itself when that ends
    except (XenhelperError, ValueError):
        free = 1 << 50
    fits, left = fitting(startable, need, free)
    say("start them in this order:")
    for vm in fits:
        by_libvirt = configs[vm].startswith(virt.CONFIG)
        say(f"  virsh start {vm}" if by_libvirt else f"  xl create {configs[vm] or vm}")
    for vm in left:
        say(f"  {vm} doesn't fit: it needs {need[vm] // 1024} MiB, and Xen's free memory is used up before")


def _memory_kib(path: str) -> int:
    """What xl would need for a VM, 0 when its config can't be read here."""
    from xenhelper import destination
    from xenhelper.xen import vmconfig

    if path.startswith(virt.CONFIG):
        from xenhelper.virt import adopt

        need = adopt.memory_kib(path.removeprefix(virt.CONFIG))
        return need + destination.OVERHEAD_KIB if need else 0
    if not path:
        return 0
    try:
        tree = vmconfig.dry_run(domains.real_xl(), paths.ROOT + path).tree
        return int(tree["b_info"]["max_memkb"]) + destination.OVERHEAD_KIB
    except (XenhelperError, KeyError, TypeError, ValueError):
        return 0
