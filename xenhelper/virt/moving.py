"""libvirt's live migration, both ends: the window opened, the guest handed over, all closed.

libvirt has no moment between the guest's suspension and the restored domain's disks at
which a hook runs, so both hosts are Primary for the whole pre-copy. What keeps one writer:

- ``migrate`` on the destination announces it; the hook does nothing else there, since a
  refusal there leaves the source's libvirt with a job that never ends (Prepare failed,
  no Confirm: virDomainMigrateVersion3Full);
- ``start`` on the destination, while the source's stream waits, has the source open the
  window: it checks, sets protocol C, drains, permits two Primaries. A refusal ends the
  stream in the middle of the pre-copy, and the guest goes on at the source;
- ``started`` on the destination, the restored domain still paused, asks the source: it sees
  its guest suspended, pauses that domain besides, so that nothing but ``xl unpause`` makes
  it run again, and sees nothing in flight. Only then may the guest run here;
- ``release`` on either side closes.

Any of it may never come: the reconciler looks (reconcile.py, virt/settle.py).
"""

import os
import time

from xenhelper import handed, hotplug, intents, log, names, paths, statefile, virt
from xenhelper.drbd import barrier, events, show, verbs
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

TYPE_CHECKING = False  # importing typing costs the hook
if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenhelper.virt.hook import Call

_ANNOUNCED = paths.RUN + "/announced"
_HELD = paths.RUN + "/held"
# seconds: from Prepare to the stream's connection
_FRESH = 120.0
_OPEN = 60.0
_GO = 25.0
PASSED = "passed"


# -- destination ---------------------------------------------------------------------


def announce(call: "Call") -> None:
    """``migrate``: libvirt expects this domain. Counts for the next ``start`` by this libvirt."""
    statefile.write(
        f"{_ANNOUNCED}/{call.vm}",
        {"vm": call.vm, "uuid": call.uuid, "at": f"{_boottime():.3f}", "pid": str(os.getppid())},
    )


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _announced(call: "Call") -> bool:
    record = statefile.read(f"{_ANNOUNCED}/{call.vm}")
    if record is None:
        return False
    statefile.remove(f"{_ANNOUNCED}/{call.vm}")
    fresh = 0 <= _boottime() - float(record.get("at", "-inf")) < _FRESH
    return fresh and record.get("uuid") == call.uuid and record.get("pid") == str(os.getppid())


def open_if_announced(call: "Call") -> bool:
    """``start``: when it is a migration's, have the source open the window; whether it is one.
    Raises Refused or XenhelperError."""
    if not _announced(call):
        return False
    from xenhelper.peer import client

    _check_others(call)
    peer = call.peer
    try:
        client.ask(
            peer,
            "virt-open",
            {"vm": call.vm, "uuid": call.uuid, "resources": sorted(call.records)},
            timeout=_OPEN,
        )
    except PeerUnreachable as error:
        raise Refused(f"{peer} doesn't answer: {error.what}", f"is {peer} up? `xenhelper doctor`") from error
    except PeerFailed as error:
        raise Refused(str(error)) from error
    if virt.incoming(call.vm) is None:
        raise Refused(
            f"{call.vm}: {peer} opened no window for its migration", "bring both hosts to one version"
        )
    return True


def _check_others(call: "Call") -> None:
    """What isn't replicated isn't here, whatever is at its path. Raises Refused."""
    if not call.others:
        return
    import fnmatch

    from xenhelper import config, volumes

    shared = config.load().shared_volumes
    for path in call.others:
        named = volumes.split_path(path)
        name = "/".join(named) if named else path
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in shared):
            raise Refused(
                f"{call.vm}: disk {path} is neither replicated nor declared shared",
                f"`xenhelper replicate --libvirt {call.vm}` while it is off, or name it in shared_volumes",
            )


def started(call: "Call") -> None:
    """``started``: the last look before an incoming guest runs here. Raises XenhelperError, and
    libvirt destroys the copy, which never ran."""
    intent = virt.incoming(call.vm)
    if intent is None:
        return
    from xenhelper.peer import client

    peer = call.peer
    try:
        client.ask(
            peer,
            "virt-go",
            {"vm": call.vm, "uuid": call.uuid, "resources": sorted(call.records)},
            timeout=_GO,
        )
    except (PeerUnreachable, PeerFailed) as error:
        raise Refused(f"{call.vm}: {peer} doesn't hand it over: {error.what}", error.do) from error
    deadline = time.monotonic() + 15.0
    for name in call.records:
        while True:
            state = events.one(name)
            if state is None or not state.in_sync or state.role != events.PRIMARY:
                raise Refused(
                    f"{name}: the link to {peer} was lost during the hand-over", "see `xenhelper status`"
                )
            if not state.lower_pending:
                break
            if time.monotonic() > deadline:
                raise Refused(f"{name}: the last writes aren't on disk yet", "try again in a moment")
            time.sleep(0.05)
    intents.write("window", call.vm, **{**_fields(intent), PASSED: "yes"})


def _fields(intent: "dict[str, str]") -> "dict[str, str]":
    return {key: value for key, value in intent.items() if key not in ("kind", "vm", "since")}


def ended(call: "Call") -> None:
    """``release``, the disks given back: close the window, whichever end this is.

    Precondition: the VM's lock is held. What can't be closed now is left to the reconciler.
    """
    from xenhelper.peer import client

    statefile.remove(f"{_ANNOUNCED}/{call.vm}")
    coming, going = virt.incoming(call.vm), virt.outgoing(call.vm)
    if coming is None and going is None:
        return
    from xenhelper import window

    left = [line for name in call.records if (line := window.close_one(name, 5.0))]
    try:
        if left:
            raise XenhelperError("; ".join(left), "`xenhelper reconcile`")
        if going is not None:
            client.ask(call.peer, "window-end", {"vm": call.vm}, timeout=15.0)
            forget_hold(call.vm)
        else:
            ran = (coming or {}).get(PASSED) == "yes"
            client.ask(call.peer, "virt-over", {"vm": call.vm, "ran": ran}, timeout=20.0)
    except XenhelperError as error:
        log.event("note", f"{call.vm}: its window is closed later: {error}", log.WARNING, vm=call.vm)
        return
    intents.remove("window", call.vm)
    log.event(
        "window-closed", f"{call.vm}: libvirt's migration is over", vm=call.vm, intent=f"window-{call.vm}"
    )


# -- source --------------------------------------------------------------------------


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

    vm, resources, _ = _ours(peer, args)
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
        hold(vm, domid)
        try:
            for name in resources:
                barrier.quiet(name, 6.0)
                settings = show.one(name)
                if settings is None or settings.protocol != "C" or not settings.two_primaries:
                    raise Refused(f"{name}: its window isn't open any more", "`xenhelper reconcile`")
            _await_suspended(vm, domid, 0.0)
            handed.note(vm, peer, hotplug.now())
        except BaseException:
            let_go(vm)
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


def hold(vm: str, domid: int) -> None:
    """Pause the domain at the hypervisor: a resume by libvirt alone won't make it run."""
    from xenhelper.run import run

    statefile.write(f"{_HELD}/{vm}", {"vm": vm, "domid": str(domid)})
    run([domains.real_xl(), "pause", str(domid)], timeout=10)


def held(vm: str) -> "int | None":
    """The domain of ``vm`` that was paused for its hand-over, if that stands."""
    record = statefile.read(f"{_HELD}/{names.check_vm(vm)}")
    domid = (record or {}).get("domid", "")
    return int(domid) if domid.isdecimal() else None


def forget_hold(vm: str) -> None:
    """Its domain is gone, or somebody has let it go on."""
    statefile.remove(f"{_HELD}/{names.check_vm(vm)}")


def let_go(vm: str) -> None:
    """Take the pause back: the guest never ran on the other host. Twice does no harm."""
    from xenhelper.run import run

    domid = held(vm)
    if domid is not None and any(d.domid == domid and d.name == vm for d in domains.listing()):
        run([domains.real_xl(), "unpause", str(domid)], timeout=10)
    forget_hold(vm)


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
        let_go(vm)
        handed.forget(vm)
        # one that stays suspended is resumed by the reconciler, should libvirt not do it
        if not any(domain.name == vm and domain.suspended for domain in domains.listing()):
            intents.remove("window", vm)
    finally:
        os.close(fd)
    return {}
