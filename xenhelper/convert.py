"""``xenhelper convert``: a VM whose disks were replicated by hand for block-drbd becomes ours.

Both hosts' kernels say what its resources are; name, minor, port, volumes and metadata stay.
Then as in a create (replicate.py): an intent on both hosts first, undone while it is open,
finished once it is committed, whatever is killed. Neither side's data is written to, and no
metadata is made anew.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xenhelper import (
    byhand,
    consider,
    create,
    handmade,
    intents,
    names,
    paths,
    policy,
    provision,
    replicate,
    replicate_peer,
    rewrite,
    statefile,
    vmfile,
)
from xenhelper.byhand import Side
from xenhelper.config import Config, Peer
from xenhelper.consider import Considered, Look, Request
from xenhelper.drbd import events, proc, resfile
from xenhelper.drbd.knobs import Knobs
from xenhelper.errors import Refused, UsageError, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.plan import Disk, Plan
from xenhelper.tuning import link
from xenhelper.volumes import split_path
from xenhelper.xen import vmconfig

# seconds: the peer's whole part; both ends' agreement afterwards
_PREPARE, _CONNECT = 240.0, 15.0
FOLDER = "/etc/xen"


@dataclass(frozen=True)
class Found:
    """All that a conversion is decided from, and the plan that came of it."""

    considered: Considered
    there: Look
    plan: Plan
    resources: Mapping[str, str]
    files: Sequence[str]


def config_of(typed: str) -> str:
    """The path of the config that ``typed``, a path or a VM's name, means. Raises UsageError."""
    if "/" in typed or os.path.isfile(typed):
        return os.path.realpath(typed)
    names.check_vm(typed)
    found = []
    for name in statefile.names(paths.ROOT + FOLDER):
        path = f"{FOLDER}/{name}"
        if not os.path.isfile(paths.ROOT + path):
            continue
        try:
            if vmfile.is_of(vmconfig.read_file(path), typed):
                found.append(path)
        except (OSError, XenhelperError):
            continue
    if len(found) != 1:
        what = f"more than one config in {FOLDER}" if found else f"no config in {FOLDER}"
        raise UsageError(f"{typed} has {what}", f"give the path: `xenhelper convert {FOLDER}/{typed}.cfg`")
    return os.path.realpath(found[0])


def run(path: str, dry: bool = False) -> list[str]:
    """Convert the VM of the config at ``path``: what was (or would be) done, a line each.

    Raises XenhelperError: then both hosts are as they were, or an open intent tells the next
    run how far this one came.
    """
    request = create.request_for(path, [])
    vm = names.check_vm(request.vm)
    if dry:
        return _describe(_find(request, dry))
    if intents.read(provision.KIND, vm) is not None:
        replicate_peer.recover(vm)
    by_hand = _by_hand(request)
    if by_hand and set(by_hand.values()) <= set(provision.vm_records(vm)):
        # an earlier run came that far: only the config may have to follow
        replicate.run(request)
        return [f"{vm} is converted; nothing was left to take over"]
    fd = intents.lock(vm, who="convert")
    try:
        if intents.read("forget", vm) is not None:
            raise Refused(f"{vm} is half forgotten", f"finish it: `xenhelper forget {vm}`")
        replicate_peer.recover(vm, held=True)
        found = _find(request, dry)
        lines = _describe(found)
        _carry_out(found)
    finally:
        os.close(fd)
    if found.considered.fresh:
        # plain volumes beside them, which the next create would replicate
        replicate.run(create.request_for(path, []))
    return lines


def _by_hand(request: Request) -> dict[str, str]:
    """Resource by vdev of the disks for block-drbd."""
    disks = request.parsed.disks
    return {
        str(disk.get("vdev", "")): str(disk.get("pdev_path") or "")
        for disk in disks
        if str(disk.get("script") or "") in policy.BY_HAND
    }


def _find(request: Request, dry: bool) -> Found:
    """Look at both hosts and decide. Raises Refused, XenhelperError."""
    vm, found = request.vm, consider.consider(request)
    if found.left_out:
        raise Refused(f"{vm} is left out by exclude_vms", "take it out of there first")
    known = provision.vm_records()
    wanted = {vdev: name for vdev, name in _by_hand(request).items() if name not in known}
    if not wanted:
        raise XenhelperError(
            f"{request.path} has no disk for block-drbd that isn't xenhelper's",
            "`xl create` replicates plain volumes by itself",
        )
    check_names(vm, wanted)
    running = replicate_peer.domains_of(vm)
    if running:
        raise Refused(f"{vm} runs here (as {running[0]})", f"`xl shutdown -w {vm}` first")
    together = list(wanted.values())
    here = [byhand.one(side, together) for side in byhand.look(together)]
    for side in here:
        byhand.check_side(side, vm)
    peer = peer_of(vm, here, found.settings, found.peer)
    found = replace(found, peer=peer.name)
    answer = ask(peer.name, "convert-look", {"vm": vm, "resources": together}, timeout=30.0)
    sides = answer.get("sides")
    there = [byhand.side_from_json(item) for item in (sides if isinstance(sides, list) else [])]
    for side in there:
        byhand.check_side(side, vm)
    check_pairs(here, there, found.settings, peer)
    look = consider.look(found, tidy=not dry)
    if look.domains:
        raise Refused(
            f"{vm} runs on {peer.name} (as {look.domains[0]})", f"`xl shutdown -w {vm}` there first"
        )
    if look.problem:
        raise Refused(look.problem)
    knobs = link.for_pair(link.facts(found.settings, peer), look.link)
    plan = make_plan(found, wanted, here, there, knobs)
    handmade.check_place(plan)
    agreed = vmfile.record(vm).get("sha256", "")
    vmfile.must_send(request.path, look.file, request.text, request.text, agreed, peer.name)
    files = sorted({f"{side.host}:{paths.DRBD_D}/{side.file}" for side in (*here, *there)})
    return Found(found, look, plan, wanted | found.keep, files)


def check_names(vm: str, wanted: Mapping[str, str]) -> None:
    """Raises Refused for what can't be a disk or a resource of ours (pure)."""
    for vdev, name in wanted.items():
        if not names.valid_vdev(vdev):
            raise Refused(f"{vm}: vdev {vdev[:40]!r} can't be kept", "write it as xvda, sda or hda")
        if not names.valid_resource(name):
            raise Refused(
                f"{vm}: DRBD resource {name[:120]!r} has a name that xenhelper can't keep",
                "rename it on both hosts: letters, digits, '_', '+' and '-'",
            )
    if len(set(wanted.values())) != len(wanted):
        raise Refused(f"{vm} has one DRBD resource as two disks", "correct its config")


def peer_of(vm: str, here: Sequence[Side], settings: Config, peer: str) -> Peer:
    """The host at the other end of all of them; ``peer``: that of the VM's other disks, if
    any. Raises Refused (pure)."""
    found = set()
    for side in here:
        address = _address(side.remote)
        ends = [one for one in settings.peers.values() if one.replication == address]
        if not ends:
            raise Refused(
                f"{side.resource} is connected to {address}, which is no paired host's replication address",
                f"`xenhelper setup PEER --replication {_address(side.local)},{address}`",
            )
        found.add(ends[0].name)
    if peer:
        found.add(peer)
    if len(found) != 1:
        raise Refused(f"{vm}: its disks are replicated with different hosts: {', '.join(sorted(found))}")
    return settings.peer(found.pop())


def _address(endpoint: str) -> str:
    """The address of ``ipv4:10.0.0.1:7800``."""
    return endpoint.partition(":")[2].rpartition(":")[0].strip("[]")


def _port(endpoint: str) -> str:
    return endpoint.rpartition(":")[2]


def check_pairs(here: Sequence[Side], there: Sequence[Side], settings: Config, peer: Peer) -> None:
    """Both ends of each are two ends of one, and over the replication link. Raises Refused
    (pure)."""
    if [side.resource for side in here] != [side.resource for side in there]:
        raise XenhelperError(f"{peer.name} didn't say what was asked", "bring both hosts to one version")
    for mine, theirs in zip(here, there, strict=True):
        name = mine.resource
        if (mine.local, mine.remote) != (theirs.remote, theirs.local):
            raise Refused(
                f"{name}: {mine.host} goes from {mine.local} to {mine.remote}, "
                f"{theirs.host} from {theirs.local} to {theirs.remote}",
                f"correct its files, then `drbdadm adjust {name}` on both hosts",
            )
        if mine.minor != theirs.minor or _port(mine.local) != _port(mine.remote):
            raise Refused(
                f"{name} has another minor or port on {theirs.host} (minors {mine.minor} and {theirs.minor}, "
                f"ports {_port(mine.local)} and {_port(mine.remote)})",
                "make them the same: `drbdadm down`, its files, `drbdadm up` on both hosts",
            )
        if _address(mine.local) != peer.local_replication:
            raise Refused(
                f"{name} goes over {_address(mine.local)}, and the replication link is "
                f"{peer.local_replication}",
                f"change the address in its files, then `drbdadm adjust {name}` on both hosts",
            )


def make_plan(
    found: Considered, wanted: Mapping[str, str], here: Sequence[Side], there: Sequence[Side], knobs: Knobs
) -> Plan:
    """The plan for what is taken over, with the VM's other resources listed. Raises
    XenhelperError."""
    vm, settings = found.request.vm, found.settings
    peer = settings.peer(found.peer)
    text = resfile.read(vm) or ""
    disks = [replicate.existing(record, text) for record in found.records.values() if record.get("vm") == vm]
    vdevs = {name: vdev for vdev, name in wanted.items()}
    for mine, theirs in zip(here, there, strict=True):
        ours, other = split_path(mine.volume), split_path(theirs.volume)
        if ours is None or other is None:
            raise XenhelperError(f"{mine.resource}: {mine.volume} or {theirs.volume} is no volume's path")
        numbers = mine.minor, int(_port(mine.local)), mine.size
        name = mine.resource
        where = ours[0], other[0], ours[1]
        ends = mine.meta, theirs.meta, other[1] if other[1] != ours[1] else ""
        secret = resfile.new_secret()
        disks.append(Disk(vdevs[name], name, *numbers, *where, secret, 0, 0, True, knobs, True, *ends))
    hosts = settings.host, peer.local_replication, found.peer, peer.replication
    return Plan(os.urandom(8).hex(), vm, *hosts, settings.protocol, tuple(disks))


def _describe(found: Found) -> list[str]:
    plan = found.plan
    lines = []
    for disk in plan.fresh:
        record = plan.record(disk, "")
        lines.append(
            f"{disk.vdev}: resource {disk.resource} (minor {disk.minor}, port {disk.port}) on "
            f"{record['volume']} stays, with protocol {plan.protocol} and one Primary"
        )
    lines.append(f"{', '.join(found.files)}: kept, and replaced by {resfile.path(plan.vm)} on both hosts")
    lines.append(f"{found.considered.request.path}: the disks use block-xenhelper")
    return lines


def _carry_out(found: Found) -> None:
    """Precondition: the VM's lock is held."""
    considered, plan = found.considered, found.plan
    request = considered.request
    text, specs = rewrite.rewritten(considered, found.resources)
    rewrite.prove(considered, text, specs, found.resources)
    replicate.mention_missing(considered, found.there)
    provision.begin(plan, provision.SOURCE)
    try:
        _both(plan)
        if proc.wait_connected([disk.minor for disk in plan.fresh], _CONNECT):
            # cut between the two: a side with the old settings didn't let the other in
            _both(plan)
            proc.wait_connected([disk.minor for disk in plan.fresh], _CONNECT)
        _check_both(plan)
        if vmfile.read(request.path) != request.text:
            raise Refused(f"{request.path} was changed this very moment", "try again")
    except BaseException:
        replicate.undo_both(plan)
        raise
    replicate.commit(considered, found.there, plan, text, found.resources)


def _both(plan: Plan) -> None:
    ask(plan.peer, "convert-prepare", {"plan": plan.to_json()}, timeout=_PREPARE)
    handmade.take(plan)


def _check_both(plan: Plan) -> None:
    """As it was: nobody's, connected and in sync (attached anew, where the old file named a
    volume in another way). Raises XenhelperError."""
    for disk in plan.fresh:
        deadline = time.monotonic() + _CONNECT
        while not _as_before(disk, state := events.one(disk.resource)):
            if time.monotonic() > deadline:
                raise XenhelperError(
                    f"{disk.resource} isn't as it was with its new settings ({state or 'not up'})",
                    "`journalctl -k` on both hosts says why",
                )
            time.sleep(0.2)


def _as_before(disk: Disk, state: events.Resource | None) -> bool:
    return (
        state is not None
        and state.in_sync
        and {state.role, state.peer_role} == {events.SECONDARY}
        and (state.minor, state.size) == (disk.minor, disk.size)
    )
