"""Put right what an interrupted change left: close windows, revert settings, reconnect.

Acts on a VM only where nobody holds its lock (a migration's real xl does while it
runs). Does by itself what is safe; says what only a person can decide, with commands.
"""

import os

from xenhelper import (
    dead,
    fence,
    halfopen,
    handed,
    handover,
    hotplug,
    insync,
    intents,
    leftover,
    log,
    names,
    paths,
    permits,
    splitbrain,
    statefile,
    steady,
    stepdown,
    virt,
    window,
)
from xenhelper.drbd import bringup, events, proc, show
from xenhelper.errors import Busy, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer import client
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

_WHO = "reconcile"
CLOSE, LEAVE, DESTROY_INCOMING = "close", "leave", "destroy-incoming"


class Seen:
    """A VM's domains, as (name, state) pairs: here, and there (None: the peer didn't answer)."""

    def __init__(self, vm: str, here: "list[tuple[str, str]]", there: "list[tuple[str, str]] | None") -> None:
        self.vm = vm
        self.here = here
        self.there = there


def decide(seen: Seen) -> "tuple[str, str]":
    """What to do with a window that nobody works on: (action, line for a person).

    The action is for this host: DESTROY_INCOMING means its own leaked copy.
    """
    vm = seen.vm
    everywhere = seen.here + (seen.there or [])
    away = vm + names.MIGRATED_AWAY
    incoming = vm + names.INCOMING
    if any(name == away for name, _ in everywhere):
        return LEAVE, (
            f"{vm}: the migration's last answer was lost, and its source is kept suspended as {away}; "
            f"if {vm} runs well on the destination: `xl destroy {away}`, else destroy it there and "
            f"`xl rename {away} {vm}` and `xl resume {vm}` (Xen 4.20), then `xenhelper reconcile`"
        )
    if any(name == vm and state[3:5] == "ss" for name, state in everywhere):
        return LEAVE, (
            f"{vm}: suspended and no migration goes on; `xl resume {vm}` where it is (Xen 4.20) "
            f"or `xl destroy {vm}` and `xl create`, then `xenhelper reconcile`"
        )
    if any(name == incoming for name, _ in seen.here):
        if seen.there is None:
            return LEAVE, f"{vm}: {incoming} is left here and the other host doesn't answer"
        if any(name == vm and state[3] != "s" for name, state in seen.there):
            return (
                DESTROY_INCOMING,
                f"{vm}: runs on the other host; its unfinished copy {incoming} here is destroyed",
            )
        if not seen.there and all(name == incoming and state[2] == "p" for name, state in seen.here):
            # it keeps that name until it may run, and the source, which would have told it
            # so, has lost its guest: what is left of it is on the disks
            return (
                DESTROY_INCOMING,
                f"{vm}: its source is gone; {incoming} here, which never ran, is destroyed",
            )
        return (
            LEAVE,
            f"{vm}: only its unfinished copy {incoming} is here; `xl destroy {incoming}`, then `xl create`",
        )
    runs = any(name == vm and state[3] != "s" for name, state in seen.here)
    if not runs and seen.there and any(name == incoming for name, _ in seen.there):
        return LEAVE, f"{vm}: the other host still has {incoming}; it reconciles that itself"
    return CLOSE, ""


def reconcile(vms: "list[str] | None" = None, dry_run: bool = False) -> "list[str]":
    """Reconcile these VMs, or all. Returns what is left for a person, one line each."""
    left: "list[str]" = []
    records = _resources()
    if vms is None and not dry_run and os.path.isdir(f"{paths.STATE}/shelf"):
        from xenhelper import oldcopy

        left += oldcopy.go_on()
        records = _resources()
    if records:
        halfopen.drop(sorted({record["peer"] for record in records if "peer" in record}), dry_run)
    domains_here = domains.listing() if records else []
    wanted = sorted({record["vm"] for record in records} | {i["vm"] for i in intents.all_open()})
    for vm in wanted:
        if vms is not None and vm not in vms:
            continue
        try:
            fd = intents.lock(vm, wait=0.0, who=_WHO)
        except Refused:
            continue  # somebody is at work on it
        try:
            here = [domain for domain in domains_here if names.base_vm(domain.name) == vm]
            mine = _vm(vm, [record for record in records if record["vm"] == vm], here, dry_run)
        except Busy:
            continue  # set up from the other host at this moment
        except XenhelperError as error:
            mine = [f"{vm}: {error}"]
        finally:
            os.close(fd)
        left += mine
        if not dry_run:
            leftover.note(vm, mine)
    if vms is None:
        if not dry_run:
            fence.again(records, {d.name for d in domains_here if d.state[2:6] == "----"})
        left += _wanted(dry_run)
        left += _moved_away(dry_run)
        left += _pools(records, dry_run)
        if not dry_run and os.path.isdir(f"{paths.RUN}/verifying"):
            from xenhelper.verify import stop

            stop.tidy()
    for line in left:
        log.event("reconciled", line, log.WARNING)
    return left


def _wanted(dry_run: bool) -> "list[str]":
    """VMs that boot couldn't start before the other host had spoken (their locks are free:
    starting one takes its own)."""
    if not statefile.names(paths.RUN + "/wanted"):
        return []
    from xenhelper import autostart

    return autostart.start_wanted(dry_run)


def _pools(records: "list[dict[str, str]]", dry_run: bool) -> "list[str]":
    """Thin pools that fill up: told as alerts, since nothing here can be put right."""
    from xenhelper import pools

    if dry_run:
        return []
    try:
        pools.note(records)
    except XenhelperError as error:
        return [str(error)]
    return []


def _moved_away(dry_run: bool) -> "list[str]":
    """VMs whose second copy was moved from here to another host while this one was away. Last of
    all: a peer that is asked may be silent."""
    states = proc.read()[1]
    records = _resources()
    talking = {str(minor) for minor, state in states.items() if state.talks}
    if all(record.get("minor") in talking for record in records):
        return []
    from xenhelper import oldcopy

    try:
        return oldcopy.look(records, dry_run)
    except XenhelperError as error:
        return [str(error)]


def _resources() -> "list[dict[str, str]]":
    found = (statefile.read(f"{paths.RESOURCES}/{name}") for name in statefile.names(paths.RESOURCES))
    return [record for record in found if record and "vm" in record and "resource" in record]


def _vm(vm: str, records: "list[dict[str, str]]", here: "list[domains.Domain]", dry_run: bool) -> "list[str]":
    left: "list[str]" = []
    if _interrupted(vm, dry_run):
        return left  # the records are others now: the next round looks at them
    if records and not os.path.exists(bringup.vm_file(vm)):
        if dry_run:
            left.append(f"{vm}: {bringup.vm_file(vm)} is gone; it would be written anew")
        else:
            from xenhelper import rebuild

            rebuild.resource_file(vm)
    if domains.migrating(vm):
        return left  # xl was called past the shim, or goes on without it
    if virt.runs_by(vm):
        from xenhelper.virt import settle

        busy, line = settle.at_work(vm)
        if busy:
            left += [line] if line else []
            return left + [line for record in records if (line := _connect(record, dry_run))]
    if not here:
        if not dry_run:
            handed.settle(vm)
        left += [line for record in records if (line := _demote_idle(record, dry_run))]
    intent = intents.read("window", vm)
    odd = any(domain.name != vm or domain.suspended for domain in here)
    if intent is not None or odd or _unsteady(records):
        left += _close(vm, records, intent, dry_run)
    # a paused one may be a create that fails yet
    if not dry_run and any(d.name == vm and not d.suspended and d.state[2:3] != "p" for d in here):
        from xenhelper import autostart

        autostart.ran_here(vm)
        permits.keep_survivor(vm, [record["resource"] for record in records])
    for record in records:
        line = _connect(record, dry_run)
        if line:
            left.append(line)
    if not dry_run and intents.read("grow", vm) is not None:
        from xenhelper import grow

        done = grow.recover(vm)
        if done:
            log.event("reconciled", f"{vm}: {done}", log.NOTICE, vm=vm)
    # last, and beside no other change: nothing waits for this one
    if not dry_run and intents.read("tune", vm) is not None and intents.read("window", vm) is None:
        from xenhelper.tuning import resync

        try:
            resync.recover(vm)
        except (PeerUnreachable, Busy):
            pass  # once it answers
        except XenhelperError as error:
            left.append(f"{vm}: {error}")
    return left


def _interrupted(vm: str, dry_run: bool) -> bool:
    """Finish or undo a replicate or forget that was cut short; whether there was one."""
    if not dry_run and intents.read("takeover", vm) is not None:
        from xenhelper import takeover

        takeover.undo(vm)
    kinds = ("replicate", "forget", "replace")
    kind = next((kind for kind in kinds if intents.read(kind, vm) is not None), "")
    if not kind:
        return False
    if not dry_run:
        from xenhelper import forget, rehome, replicate_peer

        done = replicate_peer.recover(vm, held=True) or forget.recover(vm) or rehome.recover(vm)
        log.event(
            "reconciled",
            f"{vm}: an interrupted set-up or forget is {done}",
            log.NOTICE,
            vm=vm,
            intent=f"{kind}-{vm}",
        )
    return True


def _demote_idle(record: "dict[str, str]", dry_run: bool) -> str:
    """Step down from a disk that no domain uses: its `remove` never ran (it isn't
    guaranteed). Empty, or what keeps it."""
    name = record["resource"]
    state = events.one(name)
    if state is None or state.role != events.PRIMARY:
        return ""
    with Xenstore() as store:
        if domains.users_of(store, name):
            return ""
    if dry_run:
        return f"{name}: Primary here and in no domain's use; would be demoted"
    held = hotplug.lock(name, 1.0)
    try:
        with Xenstore() as store:
            if domains.users_of(store, name):
                return ""  # a domain is being created
        stepdown.step_down(name, record.get("peer", ""), "", 8.0)
    except XenhelperError as error:
        line = str(error)
        return line if line.startswith(f"{name}: ") else f"{name}: {line}"
    finally:
        os.close(held)
    from xenhelper import autostart

    autostart.let_go(record["vm"], name)
    log.event("reconciled", f"{name}: demoted, no domain uses it", log.NOTICE, vm=record["vm"], resource=name)
    return ""


def _unsteady(records: "list[dict[str, str]]") -> bool:
    for record in records:
        settings = show.one(record["resource"])
        if settings is None or not settings.remote:
            continue
        state = events.one(record["resource"])
        wanted = steady.protocol(record, state) if state is not None else record.get("protocol", "A")
        if settings.two_primaries or settings.protocol != wanted:
            return True
    return False


def _close(
    vm: str, records: "list[dict[str, str]]", intent: "dict[str, str] | None", dry_run: bool
) -> "list[str]":
    peer = records[0]["peer"] if records else _other(intent or {})
    # here first: a copy that comes while the other host is asked isn't one that was left
    here = [(domain.name, domain.state) for domain in domains.find(vm)]
    there = _there(peer, vm)
    if there is not None and _busy_there(peer, vm):
        return []  # an xl over there is still at it
    if intent is not None and intent.get("by") == virt.BY:
        from xenhelper.virt import settle

        return settle.close(intent, here, there, [record["resource"] for record in records], dry_run)
    action, line = decide(Seen(vm, here, there))
    if action == LEAVE:
        return [line]
    if dry_run:
        return [line or f"{vm}: its window would be closed"]
    if action == DESTROY_INCOMING:
        from xenhelper.run import run

        if domains.migrating(vm):
            return []  # its xl has come meanwhile
        run([domains.real_xl(), "destroy", vm + names.INCOMING], timeout=30)
        log.event("reconciled", line, log.NOTICE, vm=vm)
    left = window.close_all([record["resource"] for record in records], 5.0)
    if left:
        return left
    for record in records:
        handover.forget_grant(record["resource"])
    if intent is not None:
        if there is not None:
            try:
                client.ask(peer, "window-end", {"vm": vm}, timeout=15.0)
            except (PeerFailed, PeerUnreachable) as error:
                return [f"{vm}: {peer} hasn't closed its side: {error}"]
        intents.remove("window", vm)
    log.event("reconciled", f"{vm}: window closed", log.NOTICE, vm=vm, intent=f"window-{vm}")
    return []


def _other(intent: "dict[str, str]") -> str:
    source, destination = intent.get("source", ""), intent.get("destination", "")
    return source if destination == os.uname().nodename else destination


def _there(peer: str, vm: str) -> "list[tuple[str, str]] | None":
    try:
        answer = client.ask(peer, "runs", {"vm": vm}, timeout=8.0)
    except (PeerFailed, PeerUnreachable):
        return None
    found = answer.get("domains")
    return [(str(d["name"]), str(d["state"])) for d in found] if isinstance(found, list) else None


def _busy_there(peer: str, vm: str) -> bool:
    """Whether a change goes on there, as far as is known: a host that has just answered and
    doesn't say may be at one."""
    try:
        return bool(client.ask(peer, "busy", {"vm": vm}, timeout=5.0).get("busy"))
    except (PeerFailed, PeerUnreachable):
        return True


def serve_busy(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``busy``: whether a change of this VM (a migration's xl, say) goes on here."""
    vm = names.check_vm(args["vm"])
    # a reconciler there only looks, as the one that asks does
    holder = intents.holder(vm)
    busy = domains.migrating(vm) or not (holder is None or holder.startswith(_WHO))
    if not busy and virt.runs_by(vm):
        from xenhelper.virt import settle

        busy = settle.at_work(vm)[0]
    return {"busy": busy}


def _connect(record: "dict[str, str]", dry_run: bool) -> str:
    """Bring a managed resource up, or connect it again; empty, or what a person must do."""
    name, vm = record["resource"], record["vm"]
    state = events.one(name)
    if state is not None and state.connected:
        if not dry_run:
            _met(record, state)
        return ""
    recover = intents.read("recover", vm)
    if recover is not None:
        return (
            f"{name}: discarding {recover.get('discard')}'s side was interrupted; run "
            f"`xenhelper recover {vm} --discard {recover.get('discard')}` again"
        )
    if os.path.exists(f"{paths.RUN}/repairing/{name}"):
        from xenhelper.verify import stop

        if stop.apart_for_repair(name):
            return ""
    if state is not None and _split(record, state, dry_run):
        return (
            f"{name}: split brain: both hosts wrote to their own copy; `xenhelper status {vm}` tells both "
            f"sides' story, `xenhelper recover {vm} --discard HOST` gives up that host's writes"
        )
    if state is not None and state.connection != "StandAlone":
        return ""  # it tries by itself
    if dry_run:
        return f"{name}: would be brought up"
    try:
        (bringup.first_up if state is None else bringup.up)(vm, name)
    except XenhelperError as error:
        return f"{name}: {error}"
    log.event("reconciled", f"{name}: brought up again", log.NOTICE, vm=vm, resource=name)
    return ""


def _met(record: "dict[str, str]", state: events.Resource) -> None:
    """Both sides talk: what was noted for the time without the peer has had its day."""
    name = record["resource"]
    permits.revoke(name)
    dead.heard(record["peer"])
    if os.path.exists(f"{paths.STATE}/split_brain/{name}"):
        splitbrain.clear(name)
    if os.path.exists(f"{paths.STATE}/ceded/{name}"):
        from xenhelper import ceded

        try:
            ceded.tidy(record)
        except XenhelperError as error:
            log.event("note", f"{name}: {error}", log.WARNING, resource=name)
    if state.in_sync:
        insync.note(name)


def _split(record: "dict[str, str]", state: events.Resource, dry_run: bool) -> bool:
    """Whether it is a split brain; StandAlone without a mark, both generations tell."""
    marked = os.path.exists(f"{paths.STATE}/split_brain/{record['resource']}")
    if state.connection != "StandAlone" or dry_run:
        return marked
    return splitbrain.check(record)
