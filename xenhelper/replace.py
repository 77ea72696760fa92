"""``xenhelper replicate VM --peer HOST`` for a VM whose second copy is on another host: it moves.

That other host has died for good, or lives and is to be relieved. Typed where the copy is that
stays; the VM may run there. What can be refused is refused here, before anything is changed;
rehome.py acts. DRBD 8.4 knows two hosts for a resource, so the old copy isn't kept current
while the new one is filled: it is kept as it was (shelf.py).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed

from xenhelper import (
    allocate,
    ceded,
    config,
    consider,
    create,
    described,
    fence,
    intents,
    lease,
    lost,
    moved,
    names,
    numbers,
    permits,
    policy,
    provision,
    rehome,
    replicate,
    replicate_peer,
    room,
    units,
    vmfile,
    volumes,
)
from xenhelper.consider import Considered, Look, Request
from xenhelper.drbd import events, resfile
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.plan import TAKEN, Disk, Plan
from xenhelper.tuning import link
from xenhelper.xen import vmconfig

# seconds: what a host that is up needs to answer; a reconciler's round may have the VM's lock
_ANSWER = 10.0
_LOCK = 60.0


@dataclass(frozen=True)
class Half:
    """One disk of the copy that stays."""

    record: Mapping[str, str]
    data: volumes.Volume
    meta: volumes.Volume

    @property
    def resource(self) -> str:
        return self.record["resource"]


def old_peer(vm: str) -> str:
    """The host that has the VM's second copy by this host's records; '' when it isn't
    replicated here. Raises XenhelperError when there are two."""
    peers = {record.get("peer", "") for record in provision.vm_records(vm).values()}
    if len(peers) > 1:
        raise XenhelperError(
            f"{vm}: its disks are replicated with different hosts: {', '.join(sorted(peers))}"
        )
    return next(iter(peers), "")


def run(vm: str, peer: str, dry: bool = False) -> list[str]:
    """Move the second copy to ``peer``; what was (or would be) done, a line each.

    Raises Refused, PeerUnreachable, XenhelperError: then nothing has changed, or the ``replace``
    intent tells the next run how far this one came.
    """
    settings = config.load()
    config.check_name(settings, os.uname().nodename)
    settings.peer(peer)
    fd = intents.lock(names.check_vm(vm), wait=_LOCK, who="replicate --peer")
    try:
        if not dry:
            replicate_peer.recover(vm, held=True)
            rehome.recover(vm)
        old = old_peer(vm)
        if not old:
            raise XenhelperError(f"{vm} isn't replicated on this host", "`xenhelper status` lists what is")
        if old == peer:
            return [f"{vm} is replicated with {peer}"]
        described.unhindered(vm)
        records = provision.vm_records(vm)
        half = moved.half(records.values())
        if not moved.valid(half):
            raise XenhelperError(
                f"{vm}: its records lack what its old half is told by", "restore them from the other host"
            )
        alive = check_here(vm, old, records, dry)
        known, groups = volumes.facts()
        halves = [_half(record, known) for record in records.values()]
        request = _request(vm)
        found = _considered(settings, request or _bare(vm), peer, halves, groups, room.pools(known))
        there = consider.look(found, tidy=not dry)
        check_there(found, there)
        told = _config(request, peer, there) if request is not None else None
        said = consider.words(found, consider.places(found, there, meta_here=False))
        lines = [
            f"{half.resource}: /dev/{settings.peer(peer).volume_groups[half.data.group]}/{half.data.name} of "
            f"{units.size(half.data.size)} on {peer}"
            for half in halves
        ]
        kept = f"{old}'s copy as it is" + (", out of service" if alive else f", as {old} doesn't answer")
        if dry:
            theirs = ask(peer, "replicate-survey", numbers.survey_args(found), timeout=20.0)
            _ports(found, halves, numbers.survey_of(theirs))
            thin = [f"disk {vdev}: {text}" for vdev, text in said.items()]
            return [*(f"make {line} and fill it from here" for line in lines), *thin, f"leave {kept}"]
        replicate.mention_missing(found, there)
        replicate.mention_thin(found, consider.places(found, there, meta_here=False))
        ours, answer = numbers.leases(found)
        try:
            plan = _plan(found, there, halves, _ports(found, halves, numbers.survey_of(answer)))
            move = rehome.Move(plan, old, alive, half)
        except BaseException:
            lease.give_back(ours)
            numbers.unlease(peer, answer)
            raise
        for warning in rehome.carry_out(move, ours, answer, told):
            replicate.warn(f"{vm}: {warning}")
        return [*(f"{line} is filled from here now" for line in lines), f"left {kept}"]
    finally:
        os.close(fd)


def check_here(vm: str, old: str, records: Mapping[str, Mapping[str, str]], dry: bool) -> bool:
    """Whether the old host answers and takes part. Raises Refused unless the copy here is good
    and what the old one has isn't newer for certain."""
    text = resfile.read(vm)
    if text is None or not resfile.is_ours(text, vm):
        raise Refused(
            f"{resfile.path(vm)} isn't what xenhelper wrote for {vm}",
            "move it away, then `xenhelper reconcile`, which writes it anew",
        )
    states = events.snapshot()
    for name in records:
        state = states.get(name)
        if state is None:
            raise Refused(f"{name} isn't up on this host", "`xenhelper resources-up` says why")
        if state.peer_role == events.PRIMARY:
            raise Refused(
                f"{vm} runs on {old}: the copy that stays is the one where this is typed",
                f"type it on {old}, or `xl migrate` it to here first",
            )
        if state.disk != events.UP_TO_DATE:
            raise Refused(
                f"{name}: the copy on this host is {state.disk}, so {old} may have a better one",
                f"if {old} is dead: `xenhelper takeover {vm}`, then again",
            )
    apart = [states[name] for name in records if not states[name].connected]
    try:
        running = ask(old, "runs", {"vm": vm}, timeout=_ANSWER).get("domains")
    except PeerUnreachable as error:
        for state in apart:
            if not _newest(state):
                raise Refused(
                    f"{state.name}: {old} doesn't answer ({error.what}) and may have newer data",
                    f"bring {old} back; if it is dead: `xenhelper takeover {vm}`, then again",
                ) from error
        if len(apart) < len(records):
            raise Refused(
                f"{vm}: {old} is connected over the replication link, and doesn't answer over the management "
                "path",
                "`xenhelper doctor`",
            ) from error
        return False
    if running:
        raise Refused(f"{vm} runs on {old}", f"type it on {old}, or `xl migrate` it to here first")
    retire: dict[str, object] = {"vm": vm, "id": "", "to": old, "dry": True}
    ask(old, "replace-retire", retire, timeout=_ANSWER)
    for state in apart:
        if state.role != events.PRIMARY and not dry:
            try:
                fence.ask_outdate(state.name, state.minor, old)
            except PeerFailed as error:
                raise Refused(f"{state.name}: not connected, and {old} refuses: {error}") from error
    return True


def _newest(state: events.Resource) -> bool:
    """Whether this side, which isn't connected, has the newest data without the other's word."""
    if state.role == events.PRIMARY:
        return True
    return permits.valid(state.name, state.minor) or ceded.may_start(state.name, state.minor)


def _half(record: Mapping[str, str], known: Sequence[volumes.Volume]) -> Half:
    name = record["resource"]
    if record.get(TAKEN) == "yes":
        raise Refused(
            f"{name} was made by hand before it was converted, and isn't moved",
            f"`xenhelper forget {record['vm']}`, make it plain volumes, then `xl create`",
        )
    found = [volumes.resolve(record.get(key, ""), known) for key in ("volume", "meta")]
    for key, volume in zip(("volume", "meta"), found, strict=True):
        if volume is None:
            raise lost.explain(record, record.get(key, ""), known) or XenhelperError(
                f"{name}: {record.get(key)} isn't there"
            )
    assert found[0] is not None and found[1] is not None
    return Half(record, found[0], found[1])


def _request(vm: str) -> Request | None:
    """The VM's stored config; None when there is none to go by."""
    path = vmfile.record(vm).get("config", "")
    if not path.startswith("/") or path == "/dev/null":
        return None
    return create.request_for(path, [])


def _bare(vm: str) -> Request:
    return Request("", "", "", vmconfig.Parsed(vm, (), {}), False, "")


def _considered(
    settings: config.Config,
    request: Request,
    peer: str,
    halves: Sequence[Half],
    groups: Mapping[str, volumes.Group],
    pools: room.Pools,
) -> Considered:
    """As for a first create: every disk is to get its copy on ``peer``."""
    decisions = [
        policy.Decision(half.record["vdev"], half.data.path, policy.REPLICATE, "moves", half.data)
        for half in halves
    ]
    records = {half.resource: half.record for half in halves}
    return Considered(request, settings, tuple(decisions), records, groups, peer, pools)


def check_there(found: Considered, there: Look) -> None:
    """Raises Refused when the new host can't have the copies (pure but for DRBD's version)."""
    vm, peer = found.request.vm, found.peer
    if there.domains:
        raise Refused(f"{vm} runs on {peer} (as {there.domains[0]})", "`xl list` there shows it")
    consider.check_place(vm, peer, there)
    if there.resource_file:
        raise Refused(f"{peer} has resources of a VM {vm} already", f"`xenhelper status` on {peer}")
    for item in found.decisions:
        assert item.volume is not None
        consider.check_copy(found, there, item.volume)
    consider.places(found, there, meta_here=False)


def _ports(found: Considered, halves: Sequence[Half], theirs: allocate.Survey) -> dict[str, int]:
    """A new port for each resource: the old host may still try the old one. Its name and minor
    stay, since the guest has that device open. Raises Refused when the new host uses them."""
    settings = found.settings
    ours = allocate.survey(found.request.vm, settings.minors, settings.ports, host=settings.host)
    used = set(ours.ports | theirs.ports)
    ports = {}
    for half in halves:
        name, minor = half.resource, half.record["minor"]
        if name in theirs.names or int(minor) in theirs.minors:
            raise Refused(
                f"{name}: {found.peer} has another resource of that name, or with its minor {minor}",
                f"name another host; or `xenhelper forget {found.request.vm}` and a new create, which "
                "chooses others",
            )
        ports[name] = allocate.lowest(settings.ports, used, "port")
        used.add(ports[name])
    return ports


def _plan(found: Considered, there: Look, halves: Sequence[Half], ports: Mapping[str, int]) -> Plan:
    settings = found.settings
    peer = settings.peer(found.peer)
    knobs = link.for_pair(link.facts(settings, peer), there.link)
    disks = []
    for half, place in zip(halves, consider.places(found, there, meta_here=False), strict=True):
        data, group = half.data, peer.volume_groups[half.data.group]
        meta_there = volumes.meta_bytes(data.size, int(there.groups[group]["extent"]))
        numbers_ = int(half.record["minor"]), ports[half.resource], data.size
        places = data.group, group, data.name, resfile.new_secret()
        sizes = half.meta.size, meta_there
        known_ = half.record["vdev"], half.resource, *numbers_, *places, *sizes
        disk = Disk(*known_, knobs=link.for_disk(knobs, place.granularity), pool=data.pool)
        disks.append(changed(disk, peer_pool=place.peer_pool, peer_meta_pool=place.peer_meta_pool))
    ends = settings.host, peer.local_replication, found.peer, peer.replication
    protocol = halves[0].record.get("protocol", settings.protocol)
    return Plan(os.urandom(8).hex(), found.request.vm, *ends, protocol, tuple(disks))


def _config(request: Request, peer: str, there: Look) -> rehome.Config | None:
    """None when policy leaves the VM out by now: its file isn't ours to touch."""
    found = consider.consider(changed(request, peer=""))
    if not found.keep:
        return None
    return rehome.Config(changed(found, peer=peer), there)


def config_for(vm: str, peer: str) -> rehome.Config | None:
    """The VM's config for ``peer``, looked at anew on both hosts. Raises XenhelperError."""
    request = _request(vm)
    config_ = _config(request, peer, _NOTHING) if request is not None else None
    return changed(config_, there=consider.look(config_.found)) if config_ is not None else None


_NOTHING = Look({}, {}, (), (), "", "", vmfile.Sent(), False)
