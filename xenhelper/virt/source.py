"""The source of libvirt's migration: what the destination's hook has it do, over the peer channel.

Only this host opens the window and says go; see virt/moving.py for when it is asked.
"""

import os
import time

from xenhelper import handed, hotplug, intents, log, names, paths, statefile, virt
from xenhelper.drbd import barrier, events, show, verbs
from xenhelper.errors import Refused, XenhelperError
from xenhelper.virt import hold
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def _ours(peer: str, args: "Mapping[str, object]") -> "tuple[str, list[str], int]":
    """(VM, its resources, its domain's id here) of a request. Raises Refused."""
    vm = names.check_vm(str(args["vm"]))
    wanted = [names.check_resource(str(name)) for name in list(args["resources"])]  # type: ignore[call-overload]
    for name in wanted:
        record = statefile.read(f"{paths.RESOURCES}/{name}")
        if record is None or record.get("peer") != peer or record.get("vm") != vm:
            raise Refused(f"{name}: not a disk of {vm} shared with {peer}")
    host = os.uname().nodename
    with Xenstore() as store:
        domid = domains.by_name(store, vm)
        if domid is None:
            raise Refused(f"{vm} doesn't run on {host}")
        if (store.read(f"/local/domain/{domid}/vm") or "").rsplit("/", 1)[-1].lower() != str(args["uuid"]):
            raise Refused(f"{vm} on {host} has another UUID than what comes to {peer}")
        used = [
            name
            for name in statefile.names(paths.RESOURCES)
            if (statefile.read(f"{paths.RESOURCES}/{name}") or {}).get("vm") == vm
            and any(user == domid for user, _ in domains.users_of(store, name))
        ]
    if not wanted or sorted(wanted) != sorted(used):
        here, there = ", ".join(sorted(used)) or "none", ", ".join(sorted(wanted)) or "none"
        raise Refused(
            f"{vm} has the disks {here} on {host}, and {there} in what comes to {peer}",
            f"`xenhelper replicate --libvirt {vm}` makes the definitions alike",
        )
    return vm, wanted, domid


def serve_open(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``virt-open``: the destination expects ``vm`` by libvirt's migration. Opens the
    window, with its intent on both hosts, and permits two Primaries behind the drained writes."""
    from xenhelper.virt import api
    from xenhelper.window import Window

    vm, resources, domid = _ours(peer, args)
    if hold.held(vm) == domid:
        raise Refused(f"{vm} is paused since a migration that failed", "`xenhelper status` says what to do")
    host = os.uname().nodename
    doing, _ = api.activity(vm)
    if doing != api.BUSY:
        raise Refused(
            f"{vm} isn't being migrated by libvirt on {host}", f"`virsh migrate --live {vm} …` there"
        )
    fd = intents.lock(vm, who="libvirt's migration")
    try:
        window = Window(vm, resources, peer, host, str(args["uuid"])[:36], virt.BY)
        window.open()
        try:
            for name in resources:
                _permit(name)
        except BaseException:
            window.close()
            raise
    finally:
        os.close(fd)
    return {"open": True}


def _permit(name: str) -> None:
    """Two-primaries yes while the guest runs here: behind the drained writes, at protocol C."""
    held = hotplug.lock(f"grant-{name}", 10.0)
    try:
        settings, state = show.one(name), events.one(name)
        if settings is None or not settings.remote or state is None or not state.in_sync:
            raise Refused(
                f"{name}: not Connected and UpToDate on both hosts ({state})", "see `xenhelper status`"
            )
        if settings.protocol != "C" or state.role != events.PRIMARY:
            raise Refused(f"{name}: at protocol {settings.protocol}, {state.role}: not to be handed over")
        verbs.net_options(settings.local, settings.remote, "C", True)
    finally:
        os.close(held)
    log.event(
        "window-granted",
        f"{name}: two-primaries yes for libvirt's migration, the guest runs on here",
        resource=name,
    )


def serve_go(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``virt-go``: the destination has the guest, paused. From this answer on it may run
    there, so here it must not, whatever libvirt does: its domain is paused besides."""
    vm, resources, domid = _ours(peer, args)
    intent = virt.outgoing(vm)
    if intent is None or intent.get("destination") != peer:
        raise Refused(f"{vm}: no migration of it to {peer} is open here")
    fd = intents.lock(vm, wait=5.0, who="libvirt's migration")
    try:
        _await_suspended(vm, domid, 6.0)
        hold.take(vm, domid)
        try:
            for name in resources:
                barrier.quiet(name, 6.0)
                settings = show.one(name)
                if settings is None or settings.protocol != "C" or not settings.two_primaries:
                    raise Refused(f"{name}: its window isn't open any more", "`xenhelper reconcile`")
            _await_suspended(vm, domid, 0.0)
            handed.note(vm, peer, hotplug.now())
        except BaseException:
            hold.let_go(vm)
            raise
    finally:
        os.close(fd)
    log.event("window-granted", f"{vm}: suspended, held here, and handed over to {peer}", vm=vm)
    return {"go": True}


def _await_suspended(vm: str, domid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not any(domain.domid == domid and domain.suspended for domain in domains.listing()):
        if time.monotonic() > deadline:
            raise Refused(f"{vm} isn't suspended for a migration")
        time.sleep(0.1)


def serve_over(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``virt-over``: the destination's copy is gone and its disks are given back there.
    ``ran``: it may have run, which only a person can tell then (virt/settle.py)."""
    from xenhelper import window

    vm = names.check_vm(str(args["vm"]))
    intent = virt.outgoing(vm)
    if intent is None:
        return {}
    if intent.get("destination") != peer:
        raise Refused(f"{vm}: that migration isn't {peer}'s")
    fd = intents.lock(vm, wait=10.0, who="libvirt's migration")
    try:
        for name in filter(None, intent.get("resources", "").split(",")):
            line = window.close_one(names.check_resource(name), 5.0)
            if line:
                raise XenhelperError(line, "`xenhelper reconcile`")
        if args["ran"]:
            return {}
        hold.let_go(vm)
        handed.forget(vm)
        # one that stays suspended is resumed by the reconciler, should libvirt not do it
        if not any(domain.name == vm and domain.suspended for domain in domains.listing()):
            intents.remove("window", vm)
    finally:
        os.close(fd)
    return {}
