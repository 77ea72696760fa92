"""Take a VM's replication away: its disks become plain volumes again.

The peer's end goes first, then ours; each end has a ``forget`` intent of its own, and as
the records go last, typing the command again goes on where it stopped. A resource is
stopped before its file goes; data volumes stay, but for the peer's when that is asked
for and our own data is certainly good.
"""

import os
from collections.abc import Mapping
from typing import Any

from xenhelper import (
    ceded,
    handmade,
    insync,
    intents,
    log,
    names,
    paths,
    permits,
    provision,
    splitbrain,
    statefile,
    virt,
    vmfile,
    volumes,
)
from xenhelper.drbd import adm, proc, resfile, verbs
from xenhelper.errors import Refused, XenhelperError
from xenhelper.plan import TAKEN
from xenhelper.tuning import probes
from xenhelper.xen import vmconfig

KIND = "forget"
# seconds: a reconciler's round may have the VM's lock
_LOCK_WAIT = 30.0


def run(vm: str, delete_peer_volumes: bool = False, dry: bool = False) -> list[str]:
    """Forget ``vm`` on both hosts; returns what was (or would be) done, a line each.

    Raises Refused while it runs on either host, or when the peer's copy is to be deleted
    and ours isn't known to be good; PeerUnreachable.
    """
    from xenhelper.peer.client import ask

    names.check_vm(vm)
    records = provision.vm_records(vm)
    if not records and not dry and _finish(vm):
        return [f"{vm}: finished what was begun"]
    if not records:
        raise XenhelperError(f"{vm} isn't replicated on this host", "`xenhelper status` lists what is")
    peer = next(iter(records.values()))["peer"]
    request: dict[str, object] = {"vm": vm, "delete": delete_peer_volumes, "dry": True}
    fd = intents.lock(vm, wait=_LOCK_WAIT)
    try:
        check(vm, records)
        if delete_peer_volumes:
            _check_deletable(vm, records)
        answer = ask(peer, "replicate-forget", request, timeout=30.0)
        # an earlier run that died there had proven it, and there is no sync any more to look at
        if delete_peer_volumes and not answer.get("begun"):
            _require_good(records, peer)
        lines = [f"{peer}: {line}" for line in _lines(answer)]
        lines += _describe(vm, records, delete_data=False)
        if dry:
            return lines
        ask(peer, "replicate-forget", {**request, "dry": False}, timeout=180.0)
        here(vm, peer, delete_data=False)
    finally:
        os.close(fd)
    return lines


class Elsewhere(Refused):
    """The other host has the VM's current data, or may have it."""


def alone(vm: str, why: str) -> list[str]:
    """This host's part without the other host's, which can't be asked (``why``): when the
    package goes. Only where this host has the current data; the other copy stays.

    Raises Elsewhere when that isn't certain, Refused when the VM runs.
    """
    fd = intents.lock(vm, wait=_LOCK_WAIT)
    try:
        records = provision.vm_records(vm)
        check(vm, records)
        peer = peer_of(vm)
        # an earlier run that had looked may have stopped the resources by now
        if intents.read(KIND, vm) is None:
            check_current(vm, why)
        lines = _describe(vm, records, delete_data=False)
        here(vm, peer, delete_data=False)
        return [*lines, f"{peer} keeps its copy of {vm} and its part of the replication: {why}"]
    finally:
        os.close(fd)


def check_current(vm: str, why: str = "") -> None:
    """Raises Elsewhere unless this host has the VM's current data for certain: both copies
    are in sync, or it is good and the VM ran here last. ``why``: the peer can't be asked."""
    mine = vmfile.record(vm).get("last_ran") == os.uname().nodename
    states = proc.read()[1]
    for name, record in provision.vm_records(vm).items():
        peer, state = record["peer"], states.get(int(record["minor"]))
        if state is not None and state.peer_role == "Primary":
            raise Elsewhere(f"{vm} runs on {peer}", f"{record['volume']} here is its copy")
        both = state is not None and state.connection == "Connected" and state.peer_disk == "UpToDate"
        if state is None or state.disk != "UpToDate" or not (mine or both):
            shown = state.disk if state is not None else "not up"
            raise Elsewhere(
                f"{name}: {peer} may have the current data" + (f" ({why})" if why else ""),
                f"{record['volume']} here is {shown}, and may be an older copy",
            )


def peer_of(vm: str) -> str:
    """The host that has the other copy; '' when nothing tells."""
    records = provision.vm_records(vm)
    told = [record["peer"] for record in records.values()] or [(intents.read(KIND, vm) or {}).get("peer", "")]
    return told[0]


def known() -> list[str]:
    """Every VM that is replicated on this host, or whose forgetting was begun."""
    begun = [intent["vm"] for intent in intents.all_open() if intent.get("kind") == KIND and "vm" in intent]
    return sorted({record["vm"] for record in provision.vm_records().values() if "vm" in record} | set(begun))


def _finish(vm: str) -> bool:
    """Go on when only an intent is left of an earlier run here."""
    if intents.read(KIND, vm) is None:
        return False
    fd = intents.lock(vm)
    try:
        return bool(recover(vm))
    finally:
        os.close(fd)


def _lines(answer: Mapping[str, Any]) -> list[str]:
    return [str(line) for line in answer.get("lines", ())]


def serve(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """The peer verb: the far end of :func:`run`."""
    vm = names.check_vm(args["vm"])
    records = provision.vm_records(vm)
    if any(record.get("peer") != peer for record in records.values()):
        raise Refused(f"{vm} on {os.uname().nodename} isn't replicated with {peer}")
    fd = intents.lock(vm, wait=20.0)
    try:
        check(vm, records)
        if args["delete"]:
            _check_deletable(vm, records)
        if args["delete"] and intents.read(KIND, vm) is None:
            # the asker has looked as well; a copy goes only if both hosts see another
            _require_good(records, peer)
        lines = _describe(vm, records, args["delete"])
        begun = (intents.read(KIND, vm) or {}).get("delete") == "yes" or not records
        if not args["dry"]:
            here(vm, peer, args["delete"])
        return {"lines": lines, "begun": begun}
    finally:
        os.close(fd)


def check(vm: str, records: Mapping[str, Mapping[str, str]]) -> None:
    """Raises Refused while the VM, or anything else, uses its resources on this host."""
    from xenhelper.replicate_peer import domains_of

    host = os.uname().nodename
    for kind in ("window", "takeover", provision.KIND):
        if intents.read(kind, vm) is not None:
            raise Refused(f"{vm}: a {kind} is still open on {host}", "`xenhelper reconcile` first")
    running = domains_of(vm)
    if running:
        raise Refused(f"{vm} runs on {host} (as {running[0]})", f"`xl shutdown -w {vm}` first")
    states = proc.read()[1]
    for name, record in records.items():
        state = states.get(int(record["minor"]))
        if state is not None and state.role == "Primary":
            used = verbs.holder(int(record["minor"]))
            raise Refused(f"{name} is Primary on {host}: held by {used}", "let it go first")
    handmade.require_kept(vm, _taken(records))
    provision.require_writable()
    if virt.runs_by(vm):
        from xenhelper.virt import api

        try:
            api.require_stopped(vm)
        except api.NotThere:
            pass  # libvirt is gone from this host: its definition stays (virt/adopt.py)


def _require_good(records: Mapping[str, Mapping[str, str]], peer: str) -> None:
    """Our copy may become the only one: it must be complete, with nothing under way."""
    states = proc.read()[1]
    for name, record in records.items():
        state = states.get(int(record["minor"]))
        if (
            state is None
            or state.connection != "Connected"
            or (state.disk, state.peer_disk) != ("UpToDate",) * 2
        ):
            shown = f"{state.connection}, {state.disk}/{state.peer_disk}" if state else "not up"
            raise Refused(
                f"{name} isn't in sync on both hosts ({shown}): {peer}'s copy may be the better one",
                "let it sync first, or forget without --delete-peer-volumes",
            )
    for name in records:
        verbs.wait_until(name, 15.0, "drained")


def _describe(vm: str, records: Mapping[str, Mapping[str, str]], delete_data: bool) -> list[str]:
    lines = []
    for name, record in records.items():
        if record.get(TAKEN) == "yes":
            lines.append(f"keep resource {name}, with the settings and the file that it had before")
            continue
        lines.append(f"stop resource {name}, remove {record['meta']}")
        lines.append(f"{'REMOVE' if delete_data else 'keep'} {record['volume']}")
    config = vmfile.record(vm).get("config", "")
    if config:
        lines.append(f"put {config} back as it was before")
    return lines


def here(vm: str, peer: str, delete_data: bool) -> None:
    """This host's part. Precondition: the VM's lock is held and check() passed."""
    records = provision.vm_records(vm)
    if not records and intents.read(KIND, vm) is None:
        return
    intents.write(KIND, vm, peer=peer, delete="yes" if delete_data else "no")
    intents.remove("grow", vm)  # what it had changed by now are volumes' sizes only
    taken = _taken(records)
    for name, record in records.items():
        if name not in taken:
            adm.down(name, int(record["minor"]))
    if taken or handmade.kept(vm):
        handmade.give_back(vm, taken)
    else:
        text = resfile.read(vm)
        if text is not None and resfile.is_ours(text, vm):
            statefile.remove(resfile.path(vm))
    _volumes(vm, records, delete_data)
    _restore(vm)
    for name, record in records.items():
        drop_notes(name, record)
        statefile.remove(f"{paths.RESOURCES}/{name}")
    statefile.remove(f"{paths.VMS}/{vm}")
    statefile.remove(vmfile.original_path(vm))
    intents.remove(KIND, vm)
    log.event(
        "note",
        f"{vm} isn't replicated with {peer} any more",
        log.NOTICE,
        vm=vm,
        peer=peer,
        intent=f"{KIND}-{vm}",
    )


def _taken(records: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Those that were made by hand, with their minors: they go back to how they were."""
    return {name: int(record["minor"]) for name, record in records.items() if record.get(TAKEN) == "yes"}


def _check_deletable(vm: str, records: Mapping[str, Mapping[str, str]]) -> None:
    if _taken(records):
        raise Refused(
            f"{vm} was replicated by hand before: its copies on both hosts are needed for that",
            "forget without --delete-peer-volumes",
        )


def drop_notes(name: str, record: Mapping[str, str]) -> None:
    """What this host keeps of a resource beside its record: of nothing that comes later."""
    probes.unmark(record.get("volume", ""))
    verified = f"{paths.STATE}/verify/{name}"
    notes = (insync.path(name), splitbrain.path(name), ceded.path(name), permits.path(name), verified)
    for path in notes:
        statefile.remove(path)


def _volumes(vm: str, records: Mapping[str, Mapping[str, str]], delete_data: bool) -> None:
    known = {volume.path: volume for volume in volumes.volumes()}
    for name, record in records.items():
        proof = (f"xenhelper.vm={vm}", f"xenhelper.resource={name}")
        meta, data = known.get(record["meta"]), known.get(record["volume"])
        if record.get(TAKEN) == "yes":
            handmade.untag(meta, data)
            continue
        if meta is not None:
            volumes.remove(meta, *proof)
        if data is not None and delete_data:
            volumes.remove(data, *proof)
        elif data is not None:
            volumes.change_tags(data.path, drop=[tag for tag in data.tags if tag.startswith("xenhelper.")])


def _restore(vm: str) -> None:
    """Take our block out of the VM's config, keeping what was changed around it since."""
    if virt.runs_by(vm):
        from xenhelper.virt import adopt

        adopt.give_back(vm, provision.vm_records(vm))
        return
    config = vmfile.record(vm).get("config", "")
    text = vmfile.read(config) if config.startswith("/") and config != "/dev/null" else None
    if text is None:
        return
    try:
        original, block = vmconfig.split(text)
    except XenhelperError:
        kept = vmfile.read_original(vm)
        if kept is None:
            raise
        original, block = kept, vmconfig.Block(vm, False)
    if block is not None and block.vm == vm:
        vmfile.store(config, original)


def recover(vm: str) -> str:
    """For the reconciler, which holds the VM's lock: go on with a forget that was
    interrupted on this host. Returns what was done, '' when nothing was due."""
    intent = intents.read(KIND, vm)
    if intent is None:
        return ""
    check(vm, provision.vm_records(vm))
    here(vm, intent.get("peer", ""), intent.get("delete") == "yes")
    return "forgotten"
