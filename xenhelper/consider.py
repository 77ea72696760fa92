"""The deciding half of Create: what is to become of a VM's disks, and whether it can be.

Everything here reads (our configuration and records, LVM, the peer's own word) and decides;
nothing is changed. xenhelper.replicate acts on the outcome.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xenhelper import (
    allocate,
    config,
    lost,
    names,
    policy,
    provision,
    replicate_peer,
    room,
    shelf,
    virt,
    vmfile,
    volumes,
)
from xenhelper.drbd import resfile
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.xen import vmconfig


@dataclass(frozen=True)
class Request:
    """A VM's config as it stands. ``original`` is the file without our block; ``stored``:
    the file is to be rewritten (not so when the command line says what the disks are)."""

    path: str
    text: str
    original: str
    parsed: vmconfig.Parsed
    stored: bool
    xl: str
    overrides: tuple[str, ...] = ()
    peer: str = ""

    @property
    def vm(self) -> str:
        return self.parsed.name


@dataclass(frozen=True)
class Considered:
    """What is to be done for a request, with the facts it was decided from.

    ``keep``: resource by vdev of disks that have one; ``fresh``: those that get one now;
    ``pools``: this host's thin pools.
    """

    request: Request
    settings: config.Config
    decisions: tuple[policy.Decision, ...]
    records: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, volumes.Group]
    peer: str
    pools: room.Pools = field(default_factory=dict)

    @property
    def replicated(self) -> tuple[policy.Decision, ...]:
        return tuple(item for item in self.decisions if item.action == policy.REPLICATE)

    @property
    def keep(self) -> dict[str, str]:
        return {item.vdev: item.resource for item in self.replicated if item.resource}

    @property
    def left_out(self) -> bool:
        """Whether the VM is left out by name: its file isn't ours to touch at all."""
        return policy.excluded(self.request.vm, rules(self.settings))

    @property
    def fresh(self) -> tuple[policy.Decision, ...]:
        return tuple(item for item in self.replicated if not item.resource)


@dataclass(frozen=True)
class Look:
    """The peer's own word on what matters for a VM (replicate_peer.serve_look)."""

    groups: Mapping[str, Mapping[str, int]]
    volumes: Mapping[str, Mapping[str, Any]]
    missing: Sequence[str]
    domains: Sequence[str]
    resource_file: str
    problem: str
    file: vmfile.Sent
    storable: bool
    link: Mapping[str, Any] = field(default_factory=dict)
    left_over: bool = False
    pools: room.Pools = field(default_factory=dict)


def rules(settings: config.Config) -> policy.Rules:
    """The part of the configuration that policy decides by."""
    return policy.Rules(
        settings.volume_groups, settings.exclude_volumes, settings.exclude_vms, settings.shared_volumes
    )


def consider(request: Request) -> Considered:
    """Decide what becomes of each disk. Raises Refused, UsageError, XenhelperError."""
    settings = config.load()
    config.check_name(settings, os.uname().nodename)
    vm = request.vm
    if policy.excluded(vm, rules(settings)):
        left = [
            policy.Decision(
                str(disk.get("vdev", "")), str(disk.get("pdev_path", "")), policy.LEAVE, f"{vm} is left out"
            )
            for disk in request.parsed.disks
        ]
        return Considered(request, settings, tuple(left), {}, {}, "")
    known, groups = volumes.facts()
    records = provision.vm_records()
    own = vm if names.valid_vm(vm) else ""
    beneath = {}
    for path, resource in allocate.beneath(settings.host).items():
        volume = volumes.resolve(path, known)
        if volume is not None and resource not in records:
            beneath[volume.path] = resource
    facts = policy.Facts(tuple(known), records, beneath)
    decisions = policy.decide(vm, request.parsed.disks, rules(settings), facts)
    for item in policy.refusals(decisions):
        for record in records.values():
            gone = lost.explain(record, item.path, known) if record.get("volume") == item.path else None
            if gone is not None and item.volume is None:
                raise Refused(f"{vm}: disk {item.vdev}: {gone.what}", gone.do)
        raise Refused(f"{vm}: disk {item.vdev}: {item.reason}", _advice(item, own))
    peer = ""
    if any(item.action == policy.REPLICATE for item in decisions):
        names.check_vm(vm)
        _check_toolstack(request)
        peer = peer_of(vm, request.peer, settings, decisions, records)
    return Considered(request, settings, tuple(decisions), records, groups, peer, room.pools(known))


def _check_toolstack(request: Request) -> None:
    """A VM has one definition: a config of xl, or one at libvirt. Raises Refused."""
    record = vmfile.record(request.vm)
    at_libvirt = request.path == virt.config_of(request.vm)
    if virt.is_ours(record) and not at_libvirt:
        raise Refused(
            f"{request.vm} is defined at libvirt, so {request.path} isn't its config",
            f"`virsh start {request.vm}`, or `xenhelper forget {request.vm}` first",
        )
    if at_libvirt and record.get("config") and not virt.is_ours(record):
        raise Refused(
            f"{request.vm} has a config for xl: {record['config']}",
            f"`xl create {record['config']}`, or `xenhelper forget {request.vm}` first",
        )


def _advice(item: policy.Decision, vm: str) -> str:
    if "beneath DRBD" in item.reason or "belongs to VM" in item.reason:
        return "a second writer there would destroy data: give this VM a volume of its own"
    if "isn't whole yet" in item.reason:
        return "the same `xenhelper import` again goes on with it"
    if "is an old copy" in item.reason and item.volume is not None:
        return shelf.advice(item.volume.tag("left-over"))
    if "no such active volume" in item.reason:
        return "create it, or activate it with lvchange -ay"
    return f"correct the disk in {vm or 'the VM'}'s config"


def peer_of(
    vm: str,
    wanted: str,
    settings: config.Config,
    decisions: Sequence[policy.Decision],
    records: Mapping[str, Mapping[str, str]],
) -> str:
    """The one host that has, or gets, the other copy of all the VM's disks."""
    have = {records[item.resource]["peer"] for item in decisions if item.resource}
    if len(have) > 1:
        raise XenhelperError(
            f"{vm}: its disks are replicated with different hosts: {', '.join(sorted(have))}"
        )
    if have:
        peer = have.pop()
        if wanted and wanted != peer:
            raise Refused(
                f"{vm} is replicated with {peer}, not with {wanted}",
                f"`xenhelper replicate {vm} --peer {wanted}` moves its second copy there",
            )
        return settings.peer(peer).name
    if wanted:
        return settings.peer(wanted).name
    able = settings.peers_for(vm)
    if len(able) == 1:
        return able[0].name
    new = [item.volume for item in decisions if item.action == policy.REPLICATE and item.volume]
    return _roomiest(vm, able, new)


def _roomiest(vm: str, able: Sequence[config.Peer], wanted: Sequence[volumes.Volume]) -> str:
    """Of several peers, the one that would have the most space left. Raises PeerUnreachable
    when none answers, Refused when none has the room."""
    need: dict[str, dict[str, int]] = {}
    free: dict[str, dict[str, int]] = {}
    silent = []
    for peer in able:
        places = [(volume, peer.volume_groups.get(volume.group, "")) for volume in wanted]
        if not all(group for _, group in places):
            continue
        try:
            said = ask(peer.name, "facts", {}, timeout=10.0)
        except (PeerUnreachable, PeerFailed) as error:
            silent.append(error.what)
            continue
        side = room.Side(peer.name, {}, room.from_json(said.get("pools")))
        # a thin pool has a slash in its name here, which no group has
        pools = {
            f"{group}/{name}": one.free for group, all_ in side.pools.items() for name, one in all_.items()
        }
        free[peer.name] = _free(said.get("volume_groups")) | pools
        sizes = need.setdefault(peer.name, {})
        for volume, group in places:
            pool = room.choose(volume.pool, group, side)[0] if volume.pool else ""
            where = f"{group}/{pool}" if pool else group
            more = volume.used if pool else volume.size + volumes.meta_bytes(volume.size, 1 << 20)
            sizes[where] = sizes.get(where, 0) + more
    if not free and silent:
        raise PeerUnreachable(f"no peer that could take {vm}'s replica answers: {'; '.join(silent)}")
    chosen = policy.roomiest(need, free)
    if not chosen:
        raise Refused(
            f"{vm}: none of {', '.join(peer.name for peer in able)} has room for its replica",
            "make room there, or name one: `xenhelper replicate CFG --peer HOST` says what it lacks",
        )
    return chosen


def _free(groups: Any) -> dict[str, int]:
    """Free bytes of a peer's volume groups; what can't be read has none (``look`` asks the
    chosen one again, exactly)."""
    if not isinstance(groups, dict):
        return {}
    free = {name: facts.get("free") for name, facts in groups.items() if isinstance(facts, dict)}
    return {name: size for name, size in free.items() if isinstance(size, int)}


def look(found: Considered, timeout: float = 20.0, tidy: bool = False) -> Look:
    """Ask the peer what it has. ``tidy``: it first finishes or undoes what an earlier run
    of ours left there. Raises PeerUnreachable, PeerFailed."""
    peer = found.settings.peer(found.peer)
    pairs = [
        (peer.volume_groups.get(item.volume.group, ""), item.volume.name)
        for item in found.fresh
        if item.volume
    ]
    answer: dict[str, Any] = ask(
        found.peer,
        "replicate-look",
        {
            "vm": found.request.vm,
            "groups": sorted({group for group, _ in pairs if group}),
            "volumes": [f"{group}/{name}{end}" for group, name in pairs for end in ("", volumes.META_SUFFIX)],
            "files": list(found.request.parsed.files),
            "bridges": list(found.request.parsed.bridges),
            "config": found.request.path,
            "tidy": tidy,
        },
        timeout=timeout,
    )
    return Look(
        answer["groups"],
        answer["volumes"],
        answer["missing"],
        answer["domains"],
        answer["resource_file"],
        answer["problem"],
        vmfile.Sent(answer["sha256"], answer["text"], answer["agreed"]),
        answer["storable"],
        answer["link"],
        answer.get("left_over") is True,
        room.from_json(answer.get("pools")),
    )


def check(found: Considered, there: Look) -> None:
    """Everything that can be refused before anything is made. Raises Refused (pure but
    for looking at who holds a volume open)."""
    vm, peer = found.request.vm, found.peer
    if there.domains:
        raise Refused(
            f"{vm} runs on {peer} (as {there.domains[0]})", "shut it down there, or `xl migrate` it"
        )
    if not found.fresh:
        return
    check_place(vm, peer, there)
    text = resfile.read(vm)
    if text is not None and not resfile.is_ours(text, vm):
        raise Refused(f"{resfile.path(vm)} isn't xenhelper's", "move it away, or rename the VM")
    for item in found.fresh:
        assert item.volume is not None
        _check_unused(found, item.volume)
        check_copy(found, there, item.volume)
    places(found, there)


def places(found: Considered, there: Look, meta_here: bool = True) -> list[room.Place]:
    """Where the copies of the fresh disks go, in their order (pure). ``meta_here``: whether this
    host's metadata is made, too. Precondition: check_copy() of each. Raises Refused."""
    groups = found.settings.peer(found.peer).volume_groups
    disks = [room.Disk(item.volume, groups[item.volume.group]) for item in found.fresh if item.volume]
    here = room.Side(found.settings.host, found.groups, found.pools)
    theirs = {
        name: volumes.Group(name, 0, int(facts["free"]), int(facts["extent"]))
        for name, facts in there.groups.items()
    }
    return room.place(here, room.Side(found.peer, theirs, there.pools), disks, meta_here)


def words(found: Considered, placed: Sequence[room.Place]) -> dict[str, str]:
    """What is to be said of thin disks among the fresh ones, by vdev."""
    groups = found.settings.peer(found.peer).volume_groups
    said = {
        item.vdev: room.word(item.volume, groups[item.volume.group], place, found.peer)
        for item, place in zip(found.fresh, placed, strict=True)
        if item.volume
    }
    return {vdev: text for vdev, text in said.items() if text}


def check_place(vm: str, peer: str, there: Look) -> None:
    """Whether both hosts' DRBD, and the names on the peer, allow a new resource of ``vm``.
    Raises Refused."""
    provision.require_able()
    if there.problem:
        raise Refused(there.problem)
    if there.resource_file == "foreign":
        raise Refused(
            f"{peer} has a file {resfile.path(vm)} that isn't xenhelper's",
            "move it away there, or rename the VM",
        )
    if there.left_over:
        raise Refused(
            f"{peer} keeps what is left of an old copy of {vm}", f"there: {shelf.advice(vm)}, then again"
        )


def _check_unused(found: Considered, volume: volumes.Volume) -> None:
    if volume.open and _still_open(volume):
        used = volumes.users(volume) or "held open by somebody"
        raise Refused(
            f"{volume.path} is in use on {found.settings.host}: {used}",
            f"let it go before {found.request.vm} is replicated",
        )


def check_copy(found: Considered, there: Look, volume: volumes.Volume) -> str:
    """Whether ``volume`` can have its copy there; returns the group that takes it. Raises
    Refused."""
    peer = found.peer
    group = found.settings.peer(peer).volume_groups.get(volume.group, "")
    if not group:
        raise Refused(
            f"volume group {volume.group} has no counterpart on {peer} in the configuration",
            f"run `xenhelper setup {peer}`",
        )
    if group not in there.groups:
        raise Refused(f"{peer} has no volume group {group}", f"make it there, or leave {volume.group} out")
    for name in (f"{group}/{volume.name}", f"{group}/{volume.name}{volumes.META_SUFFIX}"):
        if name in there.volumes:
            raise Refused(
                f"{peer} has a volume /dev/{name} already, which isn't this VM's copy",
                "rename or remove it there (`lvrename`, `lvremove`) if nobody needs it",
            )
    if volume.size % int(there.groups[group]["extent"]):
        raise Refused(
            f"{volume.path} ({volume.size} bytes) is no whole number of {peer}'s {group} extents",
            "grow it to one with lvextend",
        )
    return group


def _still_open(volume: volumes.Volume) -> bool:
    """Whether it is more than a probe's passing look (udev, multipath)."""
    if volumes.users(volume):
        return True
    time.sleep(0.7)
    return any(other.full_name == volume.full_name and other.open for other in volumes.volumes())


def check_here(vm: str) -> None:
    """Raises Refused when the VM runs on this host under any of its names."""
    running = replicate_peer.domains_of(vm)
    if running:
        raise Refused(f"{vm} runs here already (as {running[0]})", "`xl list` shows it")
