"""``xenhelper evacuate``: every VM of this host moves to its other host, and back.

One after the other with plain ``xl migrate`` through the shim, so that each move is
checked and closed like one that was typed. What was moved is on record before it moves:
``--return`` goes by that, whenever it is typed and however often.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xenhelper import config, destination, log, names, paths, provision, statefile, takeover, virt
from xenhelper.errors import PeerFailed, PeerUnreachable, XenhelperError
from xenhelper.insync import stamp
from xenhelper.peer.client import ask
from xenhelper.run import run as program
from xenhelper.run import shown
from xenhelper.xen import description, domains

Say = Callable[[str], None]
FOLDER = paths.STATE + "/evacuated"
SHIM = paths.LIBEXEC + "/xl"
# Xen makes room for anything: xl shrinks dom0 (autoballoon)
ROOMY = 1 << 50


@dataclass(frozen=True)
class Guest:
    """A domain here. ``need_kib``: what it takes on the other host; ``peer``: that host, ''
    when its disks are on this one only; ``why`` it can't be moved from here, mostly ''."""

    vm: str
    peer: str
    need_kib: int
    why: str = ""


@dataclass(frozen=True)
class Move:
    """What becomes of a guest: it moves, or stays for ``why``."""

    vm: str
    peer: str
    why: str = ""


def plan(
    guests: Iterable[Guest], priority: Sequence[str], room_kib: Mapping[str, int], silent: Mapping[str, str]
) -> list[Move]:
    """Who moves, in order, and who stays and why. ``silent``: hosts that can't be asked, and
    what they said. Pure."""
    left = dict(room_kib)
    by_name = {guest.vm: guest for guest in guests}
    moves = []
    for vm in takeover.ordered(by_name, priority):
        guest = by_name[vm]
        if guest.why:
            moves.append(Move(vm, guest.peer, guest.why))
        elif not guest.peer:
            moves.append(Move(vm, "", "none of its disks is replicated"))
        elif guest.peer in silent:
            moves.append(Move(vm, guest.peer, silent[guest.peer]))
        elif guest.need_kib > left.get(guest.peer, 0):
            free = max(0, left.get(guest.peer, 0)) // 1024
            moves.append(
                Move(
                    vm,
                    guest.peer,
                    f"doesn't fit: it needs {guest.need_kib // 1024} MiB, and {guest.peer} has {free} MiB "
                    "left for it",
                )
            )
        else:
            left[guest.peer] -= guest.need_kib
            moves.append(Move(vm, guest.peer))
    return moves


def run(say: Say, dry: bool = False, all_of_them: bool = False) -> list[str]:
    """Move every VM off this host. Returns what stays, one line each. The first migration
    that fails ends it, unless ``all_of_them`` are to be tried. Raises XenhelperError."""
    settings = config.load()
    guests = _here()
    room, silent = _rooms({guest.peer for guest in guests if guest.peer})
    moves = plan(guests, settings.priority, room, silent)
    stays = [f"{move.vm} stays: {move.why}" for move in moves if move.why]
    for line in stays:
        say(line)
    going = [move for move in moves if not move.why]
    for at, move in enumerate(going):
        if dry:
            say(f"would type: xl migrate {move.vm} {move.peer}")
            continue
        need = next(guest.need_kib for guest in guests if guest.vm == move.vm)
        _note(move.vm, move.peer, need)
        say(f"{move.vm} to {move.peer} ({at + 1} of {len(going)})")
        status = shown([SHIM, "migrate", move.vm, move.peer])
        if status == 0:
            continue
        stays.append(f"{move.vm} stays: `xl migrate {move.vm} {move.peer}` ended with {status}")
        if domains.find(move.vm):
            statefile.remove(f"{FOLDER}/{move.vm}")
        if not all_of_them:
            stays += [f"{later.vm} stays: not tried after that" for later in going[at + 1 :]]
            break
    return stays


def _here() -> list[Guest]:
    """This host's domains, each VM once."""
    found = []
    records = provision.vm_records()
    text = program([domains.real_xl(), "list", "-l"], timeout=30).stdout
    for item in json.loads(text or "[]"):
        if int(item.get("domid", 0)) == 0:
            continue
        domain = description.from_json(item)
        if domain.name != domain.vm:
            continue  # a migration goes on
        peers = {
            record.get("peer", "")
            for name, record in records.items()
            if record.get("vm") == domain.vm and name in domain.resources
        }
        peer = peers.pop() if len(peers) == 1 else ""
        why = ""
        if not peer and names.valid_vm(domain.vm) and virt.runs_by(domain.vm):
            why = f"it runs by libvirt: `virsh migrate --live {domain.vm} …`"
        found.append(Guest(domain.vm, peer, domain.memory_kib + destination.OVERHEAD_KIB, why))
    return found


def _rooms(peers: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Free memory of each peer in KiB; and of those that don't say, why."""
    room, silent = {}, {}
    for peer in sorted(peers):
        try:
            free = ask(peer, "room", {}, timeout=20.0).get("free_kib")
            if not isinstance(free, int):
                raise PeerFailed(f"{peer} doesn't say how much memory it has free")
            room[peer] = free
        except (PeerFailed, PeerUnreachable) as error:
            silent[peer] = error.what
    return room, silent


def serve_room(peer: str, args: dict[str, object]) -> dict[str, object]:
    """Verb ``room``: memory in KiB that Xen here has for domains."""
    return {"free_kib": free_kib()}


def free_kib() -> int:
    """Memory that Xen has for another domain, in KiB. Raises XenhelperError."""
    info = destination.xen_info()
    if destination.autoballoon(info):
        return ROOMY
    text = info.get("free_memory", "")
    if not text.isdigit():
        raise XenhelperError("`xl info` doesn't say how much memory is free")
    return int(text) * 1024


def _note(vm: str, peer: str, need_kib: int) -> None:
    record = {"vm": vm, "peer": peer, "need_kib": str(need_kib), "at": stamp(time.time())}
    statefile.write(f"{FOLDER}/{names.check_vm(vm)}", record)


def moved() -> dict[str, dict[str, str]]:
    """What evacuations moved and no return has brought back, by VM."""
    found = {name: statefile.read(f"{FOLDER}/{name}") for name in statefile.names(FOLDER)}
    return {
        name: record
        for name, record in found.items()
        if record is not None and names.valid_vm(name) and names.valid_host(record.get("peer", ""))
    }


def bring_back(say: Say, dry: bool = False) -> list[str]:
    """Bring back what evacuations moved away. Returns what isn't back, one line each; the
    first migration that fails ends it. Raises XenhelperError."""
    settings = config.load()
    records = moved()
    guests, left = [], []
    for vm, record in records.items():
        peer = record["peer"]
        if domains.find(vm):
            if not dry:
                statefile.remove(f"{FOLDER}/{vm}")
            continue
        try:
            there = _runs_on(peer, vm)
        except (PeerFailed, PeerUnreachable) as error:
            left.append(f"{vm} isn't back: {error.what}")
            continue
        if there:
            need = record.get("need_kib", "")
            guests.append(Guest(vm, peer, int(need) if need.isdigit() else 0))
            continue
        say(f"{vm} runs nowhere any more: it isn't for `evacuate` to start it")
        if not dry:
            statefile.remove(f"{FOLDER}/{vm}")
    need_kib = {guest.vm: guest.need_kib for guest in guests}
    order = takeover.ordered(need_kib, settings.priority)
    fits, not_fitting = takeover.fitting(order, need_kib, free_kib())
    for vm in not_fitting:
        left.append(f"{vm} isn't back: it doesn't fit into this host's memory")
    for line in left:
        say(line)
    for at, vm in enumerate(fits):
        peer = records[vm]["peer"]
        if dry:
            say(f"would type on {peer}: xl migrate {vm} {settings.host}")
            continue
        say(f"{vm} from {peer} ({at + 1} of {len(fits)})")
        status = shown([*_ssh(peer), SHIM, "migrate", vm, settings.host])
        if status == 0 or domains.find(vm):
            statefile.remove(f"{FOLDER}/{vm}")
        if status:
            left.append(f"{vm} isn't back: `xl migrate {vm} {settings.host}` on {peer} ended with {status}")
            left += [f"{later} isn't back: not tried after that" for later in fits[at + 1 :]]
            break
    return left


def _ssh(peer: str) -> list[str]:
    """root's own ssh, which `xl migrate` needs anyway."""
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10"]
    return ["ssh", *options, "--", f"root@{peer}"]


def _runs_on(peer: str, vm: str) -> bool:
    answer = ask(peer, "runs", {"vm": vm}, timeout=15.0).get("domains")
    return isinstance(answer, list) and any(
        isinstance(domain, dict) and domain.get("name") == vm for domain in answer
    )


def at_shutdown() -> list[str]:
    """By xenhelper-evacuate.service, before xendomains stops the guests. Nothing happens
    while the host stays up, or unless it is configured. Returns what stays."""
    from xenhelper import boot

    if not statefile.names(paths.RESOURCES) or not boot.shutting_down():
        return []
    if config.load().at_shutdown != config.MIGRATE:
        return []
    stays = run(_log, all_of_them=True)
    for line in stays:
        log.event("note", f"{line}; it is shut down", log.WARNING)
    return stays


def _log(line: str) -> None:
    log.event("note", f"evacuation: {line}", log.NOTICE)
