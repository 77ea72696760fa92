"""What the VM's other host says of it, asked by a host that lost its half or its files.

Everything the peer says is checked here before anybody works from it: it must be a plan
for this VM between these two hosts, at the addresses that both are configured for.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xenhelper import config, intents, names, provision, replicate_peer, virt, vmfile, volumes
from xenhelper.drbd import proc, resfile
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.plan import Plan, from_json
from xenhelper.xen import vmconfig


@dataclass(frozen=True)
class Told:
    """``plan``: all of the VM's disks, seen from here, none to be made. ``states``: of each
    resource, the disk state over there. ``config``, ``text``, ``sha256``: its config's path
    (may be ''), text ('': none that could be stored here) and what was agreed on. ``thin``: of
    each resource that is thin over there, its pool and the bytes it takes up."""

    plan: Plan
    states: dict[str, str]
    config: str
    text: str
    sha256: str
    last_ran: str
    thin: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def unhindered(vm: str) -> None:
    """Raises Refused while any change of the VM is open on this host."""
    for intent in intents.all_open():
        if intent.get("vm") == vm:
            kind = intent.get("kind", "change")
            raise Refused(f"{vm}: a {kind} isn't finished", "`xenhelper reconcile`, then again")


def is_known(vm: str) -> bool:
    """Whether this host has the VM's own record."""
    return bool(vmfile.record(vm))


def by_peers(settings: config.Config, vm: str) -> Told:
    """From the first peer that has the VM's other copy. Raises XenhelperError."""
    said = []
    for peer in sorted(settings.peers):
        try:
            answer = ask(peer, "replicate-describe", {"vm": vm}, timeout=30.0)
        except (PeerFailed, PeerUnreachable) as error:
            said.append(f"{peer}: {error.what}")
            continue
        return checked(settings, vm, peer, answer)
    raise XenhelperError(
        f"{vm}: no other host tells of it ({'; '.join(said) or 'no peer is set up'})",
        "`xenhelper setup PEER`, then again",
    )


def checked(settings: config.Config, vm: str, peer: str, answer: Mapping[str, Any]) -> Told:
    """The peer's answer, if it is one that this host may work from. Raises XenhelperError."""
    theirs = from_json(answer.get("plan", {}))
    if (theirs.vm, theirs.host, theirs.peer) != (vm, peer, settings.host) or theirs.fresh:
        raise XenhelperError(f"{vm}: {peer} tells of {theirs.vm} between {theirs.host} and {theirs.peer}")
    here = theirs.seen_from(settings.host)
    replicate_peer.agree_on_addresses(here, settings.peer(peer))
    states, words = answer.get("disks"), [answer.get(key) for key in ("config", "text", "sha256", "last_ran")]
    sane = isinstance(states, dict) and all(isinstance(state, str) for state in states.values())
    if not sane or not all(isinstance(word, str) for word in words):
        raise XenhelperError(
            f"{vm}: what {peer} tells of it can't be read", "bring both hosts to one version"
        )
    path, text, sha256, last_ran = (str(word) for word in words)
    if not re.fullmatch(r"[0-9a-f]{0,64}", sha256) or not (not last_ran or names.valid_host(last_ran)):
        raise XenhelperError(f"{vm}: what {peer} agreed on with this host can't be noted")
    if path not in ("/dev/null", virt.config_of(vm)) and not vmfile.storable(path):
        path = text = ""  # nothing of the peer's is written outside a place for configs
    if text and not vmfile.is_of(text, vm):
        raise XenhelperError(f"{vm}: what {peer} has at {path} isn't its config", "see there")
    return Told(here, dict(states or {}), path, text, sha256, last_ran, _thin(vm, peer, answer.get("thin")))


def _thin(vm: str, peer: str, said: object) -> dict[str, tuple[str, int]]:
    """Raises XenhelperError. An older peer says nothing of it."""
    try:
        found = {str(name): (one["pool"], one["used"]) for name, one in dict(said or {}).items()}  # type: ignore[call-overload]
        if all(volumes.valid_name(pool) and 0 <= used < 1 << 60 for pool, used in found.values()):
            return found
    except (TypeError, ValueError, KeyError, IndexError):
        pass
    raise XenhelperError(f"{vm}: what {peer} tells of its thin volumes can't be read")


def store_config(told: Told) -> str:
    """Store the VM's config as the peer has it, unless there is another one here, and write
    the VM's record; what to say of it, '' mostly. Raises XenhelperError."""
    vm, peer, path = told.plan.vm, told.plan.peer, told.config
    sha256, note = told.sha256, ""
    taken = vmfile.owner(path) if path and path != "/dev/null" else ""
    if taken not in ("", vm):
        note = f"; {path} is the config of {taken} here and stays that"
        path = ""
    elif told.text:
        old = vmfile.read(path)
        if old is None:
            vmfile.keep_original(vm, vmconfig.split(told.text)[0])
            vmfile.store(path, told.text)
        if old in (None, told.text):
            sha256 = vmconfig.checksum(told.text)
        else:
            note = f"; {path} here is another one than on {peer} and stays as it is"
    elif path != "/dev/null":
        note = f"; its config isn't on {peer}, or has no place here: put it back yourself"
    vmfile.write_record(vm, path, sha256, peer, [disk.resource for disk in told.plan.disks], told.last_ran)
    return note


def serve(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``replicate-describe``: all that the asker needs to have its half of a VM again."""
    vm = names.check_vm(args["vm"])
    records = provision.vm_records(vm)
    if not records or any(record.get("peer") != peer for record in records.values()):
        raise Refused(f"{vm} isn't replicated between {os.uname().nodename} and {peer}")
    if any(intent.get("vm") == vm for intent in intents.all_open()):
        raise Refused(
            f"{vm}: a change isn't finished on {os.uname().nodename}", "`xenhelper reconcile` there"
        )
    record = vmfile.record(vm)
    path = record.get("config", "")
    text = vmfile.read(path) if vmfile.storable(path) else None
    states = proc.read()[1]
    disks = {name: states.get(int(item["minor"])) for name, item in records.items()}
    known = volumes.volumes()
    return {
        "plan": _plan(vm, records).to_json(),
        "disks": {name: state.disk if state else "not up" for name, state in disks.items()},
        "config": path,
        "text": text if text is not None and vmfile.is_of(text, vm) else "",
        "sha256": record.get("sha256", ""),
        "last_ran": record.get("last_ran", ""),
        "thin": {
            name: {"pool": volume.pool, "used": volume.used}
            for name, item in records.items()
            if (volume := volumes.resolve(item.get("volume", ""), known)) is not None and volume.pool
        },
    }


def _plan(vm: str, records: dict[str, dict[str, str]]) -> Plan:
    """The plan that a VM's records come to, none of its disks to be made. Raises
    XenhelperError."""
    from xenhelper import rebuild
    from xenhelper.replicate import existing

    text = resfile.read(vm) or resfile.render(vm, rebuild.entries(records.values()))
    disks = tuple(existing(record, text) for record in records.values())
    first = next(iter(records.values()))
    ends = (
        first["host"],
        rebuild.address(first["address"]),
        first["peer"],
        rebuild.address(first["peer_address"]),
    )
    return Plan(os.urandom(8).hex(), vm, *ends, first.get("protocol", "A"), disks)
