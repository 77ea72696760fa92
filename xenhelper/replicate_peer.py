"""What the peer does for a replication that another host runs: the far end of the story.

Each function is a verb of the peer channel (xenhelper/peer/verbs.py). The asker is known
by its key; everything it says is checked against our own configuration and records.
"""

import os
from typing import Any

from xenhelper import (
    allocate,
    config,
    intents,
    lease,
    moved,
    names,
    paths,
    provision,
    room,
    shelf,
    virt,
    vmfile,
    volumes,
)
from xenhelper.drbd import resfile
from xenhelper.errors import Busy, Refused, XenhelperError
from xenhelper.plan import Plan, from_json
from xenhelper.tuning import link
from xenhelper.xen import vmconfig

# a create on this side that has the VM's lock sees the other's intent and gives up soon
_LOCK_WAIT = 25.0


def serve_look(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Facts for a decision (consider.Look). Changes nothing, but for an interrupted run's
    remains when asked to ``tidy``."""
    vm = names.check_vm(args["vm"])
    if args["tidy"] and intents.read(provision.KIND, vm) is not None:
        recover(vm)
    known, groups = volumes.facts(*args["groups"])
    wanted = set(args["volumes"])
    answer: dict[str, Any] = {
        "groups": {
            name: {"free": groups[name].free, "extent": groups[name].extent}
            for name in args["groups"]
            if name in groups
        },
        "volumes": {
            volume.full_name: {
                "size": volume.size,
                "vm": volume.tag("vm"),
                "resource": volume.tag("resource"),
            }
            for volume in known
            if volume.full_name in wanted
        },
        "missing": [path for path in args["files"] if not os.path.exists(paths.ROOT + path)]
        + [f"bridge {name}" for name in args["bridges"] if not _is_bridge(name)],
        "domains": domains_of(vm),
        "resource_file": _whose(vm),
        "problem": "",
        "sha256": "",
        "text": "",
        "agreed": vmfile.record(vm).get("sha256", ""),
        "storable": vmfile.storable(args["config"]),
        "left_over": shelf.note(vm) is not None,
        "pools": room.told(known, args["groups"]),
        "link": _link(peer),
    }
    try:
        provision.require_able()
    except Refused as error:
        answer["problem"] = str(error)
    text = vmfile.read(args["config"]) if answer["storable"] else None
    if text is not None:
        # only this VM's own config is told: others may hold passwords, and be another peer's
        answer["sha256"] = vmconfig.checksum(text)
        answer["text"] = text if vmfile.is_of(text, vm) else ""
    return answer


def _link(peer: str) -> dict[str, int]:
    settings = config.load()
    return link.facts(settings, settings.peer(peer))


def _is_bridge(name: str) -> bool:
    return "/" not in name and os.path.exists(f"{paths.ROOT}/sys/class/net/{name}")


def _whose(vm: str) -> str:
    text = resfile.read(vm)
    if text is None:
        return ""
    return "ours" if resfile.is_ours(text, vm) else "foreign"


def domains_of(vm: str) -> list[str]:
    """Names of this host's domains that are ``vm``, from xenstore (no fork)."""
    from xenhelper.xen import domains, xenstore

    with xenstore.Xenstore() as store:
        wanted = (vm, vm + names.INCOMING, vm + names.MIGRATED_AWAY)
        return [name for name in wanted if domains.by_name(store, name) is not None]


def serve_lease(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Take this host's allocation lease for the asker and say what is in use here."""
    vm = names.check_vm(args["vm"])
    other = intents.read(provision.KIND, vm)
    if other is not None:
        recover(vm, wait=5.0)
    wait = min(max(args["wait"], 0.0), lease.WAIT)
    token = lease.take(f"{peer} for {vm}", wait=wait, local=False)
    try:
        # seen only now: whoever held the lease before may have reserved this very VM
        if intents.read(provision.KIND, vm) is not None:
            raise Refused(
                f"{vm} is being set up from {os.uname().nodename} at this moment", "try again when it is done"
            )
        return {"token": token, **_survey(vm, args)}
    except BaseException:
        lease.give_back(token)
        raise


def serve_unlease(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Give the lease back unused."""
    lease.give_back(args["token"])
    return {}


def serve_survey(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """What is in use here, without the lease: for plans that are only shown."""
    return _survey(names.check_vm(args["vm"]), args)


def _survey(vm: str, args: dict[str, Any]) -> dict[str, Any]:
    if (len(args["minors"]), len(args["ports"])) != (2, 2):
        raise XenhelperError(f"{vm}: a range of numbers has two ends")
    low, high = args["minors"]
    first, last = args["ports"]
    found = allocate.survey(vm, (low, high), (first, last))
    return {"names": sorted(found.names), "minors": sorted(found.minors), "ports": sorted(found.ports)}


def serve_prepare(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Reserve the plan's numbers, then set everything up at this end."""
    plan = plan_of(peer, args["plan"])
    _check_free(plan)
    provision.reserve(plan, provision.TARGET, args["token"])
    fd = intents.lock(plan.vm, wait=_LOCK_WAIT)
    try:
        return {"warnings": provision.build(plan, provision.TARGET)}
    finally:
        os.close(fd)


def agree_on_addresses(here: Plan, peer: config.Peer) -> None:
    """Raises XenhelperError unless ``here``, a plan of the peer's as seen from this host, has the
    addresses that this host is configured for."""
    if here.address != peer.local_replication or here.peer_address != peer.replication:
        raise XenhelperError(
            f"{here.vm}: {here.host} and {peer.name} don't agree on their replication addresses",
            f"run `xenhelper setup {peer.name}` on {here.host}",
        )


def plan_of(peer: str, data: dict[str, Any], takes_over: bool = False) -> Plan:
    """The peer's plan, seen from here, if it keeps to what our configuration allows it.
    ``takes_over``: what was made by hand, which is where it is."""
    plan = from_json(data)
    settings = config.load()
    if plan.host != peer or plan.peer != settings.host:
        raise XenhelperError(f"the plan for {plan.vm} is for {plan.host} and {plan.peer}, but {peer} asks")
    here, other = plan.seen_from(settings.host), settings.peer(peer)
    agree_on_addresses(here, other)
    if any(disk.taken != takes_over for disk in here.fresh):
        raise Refused(f"{plan.vm}: what {peer} asks for isn't what the request is for")
    for disk in here.fresh if not takes_over else ():
        if other.volume_groups.get(disk.group) != disk.peer_group:
            raise Refused(
                f"{settings.host}'s configuration gives {peer} no place in volume group {disk.group}",
                f"run `xenhelper setup {peer}` there",
            )
    records = provision.vm_records(plan.vm)
    for disk in here.disks:
        record = records.get(disk.resource, {})
        if not disk.fresh and (record.get("peer"), record.get("minor")) != (peer, str(disk.minor)):
            raise Refused(f"{disk.resource}: not a disk of {plan.vm} shared with {peer}")
    return here


def _check_free(plan: Plan) -> None:
    """The asker chose from our own survey; what it sends back is looked at again, since
    undoing a plan stops what has its names."""
    found = allocate.survey(plan.vm, (0, 1 << 20), (1, 65535), mine=plan.id)
    for disk in plan.fresh:
        known = disk.resource in found.names or not disk.resource.startswith(plan.vm.replace(".", "_"))
        if known or disk.minor in found.minors or disk.port in found.ports:
            raise Refused(
                f"{disk.resource}, minor {disk.minor} or port {disk.port} isn't free on {plan.host}",
                "try again",
            )


def serve_undo(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Undo what this run made here, if it isn't committed."""
    vm = names.check_vm(args["vm"])
    intent = intents.read(provision.KIND, vm)
    if intent is None or intent.get("id") != args["id"] or intent.get("peer") != peer:
        return {"undone": False}
    fd = intents.lock(vm, wait=_LOCK_WAIT)
    try:
        return {"undone": provision.undo(vm, args["id"])}
    finally:
        os.close(fd)


def serve_commit(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Write records and config and close the intent. Asking twice does no harm.

    ``id`` is '' when only the config changed.
    """
    vm = names.check_vm(args["vm"])
    fd = intents.lock(vm, wait=_LOCK_WAIT)
    try:
        plan = _committed_plan(peer, vm, args["id"]) if args["id"] else None
        if plan is not None:
            provision.commit_intent(plan, provision.TARGET)
            provision.write_records(plan)
        for name, vdev in args.get("vdevs", {}).items():
            if not names.valid_vdev(str(vdev)):
                raise XenhelperError(f"{vm}: {str(vdev)[:40]!r} is no vdev")
            if provision.vm_records(vm).get(name, {}).get("peer") != peer:
                raise Refused(f"{name[:120]}: not a disk of {vm} shared with {peer}")
            provision.rename_vdev(names.check_resource(name), vm, str(vdev))
        if args.get("config"):
            _store_config(peer, vm, args)
        if args.get("autostart"):
            shelf.link(args["autostart"], vmfile.record(vm).get("config", ""))
        if args.get("replaced"):
            _note_replaced(peer, vm, args["replaced"])
        if plan is not None:
            provision.done(plan)
        return {}
    finally:
        os.close(fd)


def _note_replaced(peer: str, vm: str, told: dict[str, Any]) -> None:
    """The set-up took another host's place: that one is told so when it is back."""
    mine, old = os.uname().nodename, str(told.get("host", ""))
    if old in (mine, peer):
        raise XenhelperError(f"{vm}: {old} is one of the new pair")
    moved.write(vm, old, (mine, peer), told)
    moved.drop(vm, mine)
    moved.drop(vm, peer)


def _committed_plan(peer: str, vm: str, run_id: str) -> Plan | None:
    intent = intents.read(provision.KIND, vm)
    if intent is not None and intent.get("id") == run_id and intent.get("peer") == peer:
        return from_json(intent["plan"])
    if any(record.get("run") == run_id for record in provision.vm_records(vm).values()):
        return None
    raise XenhelperError(f"{vm}: {os.uname().nodename} knows nothing of this set-up any more", "try again")


def _store_config(peer: str, vm: str, args: dict[str, Any]) -> None:
    path = args["config"]
    mine = provision.vm_records(vm)
    if not mine or any(record.get("peer") != peer for record in mine.values()):
        raise Refused(f"{vm} isn't replicated between {peer} and {os.uname().nodename}")
    sha256 = args.get("agreed", "")
    if len(sha256) > 64 or not names.valid_host(args.get("last_ran") or peer):
        raise XenhelperError(f"{vm}: what was agreed on can't be noted")
    other = vmfile.owner(path)
    if other and other != vm:
        raise Refused(f"{path} on {os.uname().nodename} is the config of {other}", "give each VM a file")
    if path not in ("/dev/null", virt.config_of(vm)) and not vmfile.storable(path):
        path = ""  # the file isn't copied, so which one it is, is known over there only
    if "text" in args:
        if not path:
            raise Refused(f"{args['config']} isn't a place for a VM's config", "keep it in /etc/xen")
        old = vmfile.read(path)
        if not all(vmfile.is_of(text, vm) for text in (args["text"], old) if text is not None):
            raise Refused(f"{path} on {os.uname().nodename} isn't the config of {vm}", "move it away there")
        if old is not None and vmconfig.checksum(old) not in (
            args.get("expected", ""),
            vmconfig.checksum(args["text"]),
        ):
            raise Refused(f"{path} on {os.uname().nodename} was changed this very moment", "try again")
        vmfile.keep_original(vm, vmconfig.split(args["text"])[0])
        vmfile.store(path, args["text"], args.get("mode", 0o644))
        sha256 = vmconfig.checksum(args["text"])
    vmfile.write_record(vm, path, sha256, peer, list(mine), args.get("last_ran", ""))


def serve_state(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """How a run that the asker holds an intent of stands here: ``busy``, ``committed`` (and
    finished here now) or ``gone`` (and undone here now if it was still open)."""
    vm = names.check_vm(args["vm"])
    intent = intents.read(provision.KIND, vm)
    if intent is not None and intent.get("id") == args["id"] and intent.get("peer") == peer:
        if intents.is_locked(vm):
            return {"state": "busy"}
        fd = intents.lock(vm, wait=1.0)
        try:
            if _finish_or_undo_here(vm, args["id"]):
                return {"state": "committed"}
            return {"state": "gone"}
        finally:
            os.close(fd)
    replacing = intents.read("replace", vm)
    if replacing is not None and replacing.get("id") == args["id"] and replacing.get("peer") == peer:
        # whoever holds that intent, or the reconciler, finishes or undoes both ends
        return {"state": "committed" if replacing.get("state") == provision.COMMITTED else "busy"}
    committed = any(record.get("run") == args["id"] for record in provision.vm_records(vm).values())
    return {"state": "committed" if committed else "gone"}


def _finish_or_undo_here(vm: str, run_id: str) -> bool:
    """Local part only. True: it was committed, and its records stand now."""
    intent = intents.read(provision.KIND, vm)
    if intent is None or intent.get("id") != run_id:
        return False
    if intent.get("state") == provision.COMMITTED:
        plan = from_json(intent["plan"])
        provision.write_records(plan)
        provision.done(plan)
        return True
    provision.undo(vm, run_id)
    return False


def recover(vm: str, wait: float = 5.0, held: bool = False) -> str:
    """Finish or undo what an interrupted run left for ``vm``; for the reconciler, and at
    the start of each run. Returns what was done, '' when nothing was due.

    ``held``: the caller has the VM's lock. Raises Refused while somebody works on it,
    PeerUnreachable when only the peer could say how far it got.
    """
    intent = intents.read(provision.KIND, vm)
    if intent is None:
        return ""
    fd = -1 if held else intents.lock(vm, wait=wait)
    try:
        intent = intents.read(provision.KIND, vm)
        if intent is None:
            return ""
        if intent.get("role") == provision.SOURCE:
            return _recover_source(vm, intent)
        return _recover_target(vm, intent)
    finally:
        if fd >= 0:
            os.close(fd)


def _recover_source(vm: str, intent: dict[str, str]) -> str:
    from xenhelper.peer.client import ask

    request: dict[str, object] = {"vm": vm, "id": intent["id"]}
    if intent.get("state") == provision.COMMITTED:
        ask(intent["peer"], "replicate-commit", request, timeout=40.0)
        _finish_or_undo_here(vm, intent["id"])
        return "finished"
    ask(intent["peer"], "replicate-undo", request, timeout=90.0)
    _finish_or_undo_here(vm, intent["id"])
    return "undone"


def _recover_target(vm: str, intent: dict[str, str]) -> str:
    from xenhelper.peer.client import ask

    answer = ask(intent["peer"], "replicate-state", {"vm": vm, "id": intent["id"]}, timeout=90.0)
    if answer.get("state") == "busy":
        raise Busy(f"{vm} is being set up from {intent['peer']} at this moment", "try again when it is done")
    if answer.get("state") == "committed":
        provision.commit_intent(from_json(intent["plan"]), provision.TARGET)
    return "finished" if _finish_or_undo_here(vm, intent["id"]) else "undone"
