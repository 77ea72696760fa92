"""``xenhelper replicate --libvirt NAME``: a stopped domain's disks are replicated, and its
definition names DRBD's devices on both hosts from then on; ``forget`` gives it back.

Between the two, libvirt still names the volumes: the hook refuses a start then (it would
write beneath DRBD), and the same command goes on where it stopped.
"""

import os
from collections.abc import Mapping
from typing import Any

from xenhelper import (
    consider,
    intents,
    log,
    names,
    provision,
    replicate,
    virt,
    vmfile,
)
from xenhelper.errors import Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.run import run
from xenhelper.virt import api, definition, devices
from xenhelper.xen import vmconfig

_LOCK_WAIT = 25.0
_DAEMONS = ("libvirtd.service", "virtxend.service")


def request(vm: str, peer: str = "") -> "tuple[consider.Request, str]":
    """(What create would make of a config, the definition as it stands). Raises XenhelperError."""
    names.check_vm(vm)
    xml = api.definition(vm)
    if xml is None:
        raise XenhelperError(
            f"libvirt has no domain {vm} defined on this host", "`virsh list --all` lists them"
        )
    api.require_stopped(vm)
    found = definition.parse(xml)
    known = devices.records()
    disks = []
    for disk in found.disks:
        resource = devices.resource_at(disk.path, known, devices.device_number)
        as_xl = disk.as_xl()
        if resource and known[resource]["vm"] == vm:
            as_xl["pdev_path"] = known[resource]["volume"]
        disks.append(as_xl)
    tree = {
        "c_info": {"name": vm, "type": found.kind},
        "b_info": {
            "max_memkb": found.memory_kib,
            **dict(zip(("kernel", "ramdisk"), found.files, strict=False)),
        },
        "nics": [{"bridge": bridge} for bridge in found.bridges],
    }
    parsed = vmconfig.Parsed(vm, tuple(disks), tree)
    return consider.Request(virt.config_of(vm), "", "", parsed, stored=False, xl="", peer=peer), xml


def run_for(vm: str, peer: str = "") -> replicate.Outcome:
    """Adopt ``vm``; running it again does only what is missing. Raises XenhelperError."""
    wanted, xml = request(vm, peer)
    found = consider.consider(wanted)
    if not found.replicated:
        return replicate.Outcome(found, ())
    uuid = definition.parse(xml).uuid
    ask(found.peer, "virt-look", {"vm": vm, "uuid": uuid}, timeout=30.0)
    outcome = replicate.run(wanted)
    records = provision.vm_records(vm)
    fd = intents.lock(vm, wait=_LOCK_WAIT)
    try:
        mine = {name: records[name] for name in records if name in devices.records()}
        replaced = _on(xml, mine, "device")
        ask(found.peer, "virt-define", {"vm": vm, "xml": replaced}, timeout=60.0)
        vmfile.keep_original(vm, _on(xml, mine, "volume"))
        _define(vm, replaced, mine)
        if not virt.runs_by(vm):
            record = vmfile.record(vm)
            vmfile.write_record(
                vm,
                virt.config_of(vm),
                "",
                found.peer,
                list(mine),
                record.get("last_ran", found.settings.host),
            )
    finally:
        os.close(fd)
    reload_hooks()
    return outcome


def _on(xml: str, records: "Mapping[str, Mapping[str, str]]", what: str) -> str:
    """The definition with these resources' disks on their ``device`` or on their ``volume``."""
    moved = {}
    for disk in definition.parse(xml).disks:
        if not disk.path:
            continue
        name = devices.resource_at(disk.path, records, devices.device_number) or devices.beneath_at(
            disk.path, records, devices.device_number
        )
        if name:
            record = records[name]
            moved[disk.vdev] = devices.path_of(record) if what == "device" else record["volume"]
    return definition.exchanged(xml, moved)


def _define(vm: str, xml: str, records: "Mapping[str, Mapping[str, str]]") -> None:
    """Define it and look whether libvirt has it so. Raises XenhelperError."""
    before = api.definition(vm)
    if before is not None and not definition.same_but_for_disks(before, xml):
        raise Refused(f"{vm}: its definition was changed this very moment", "try again")
    api.define(xml)
    after = api.definition(vm) or ""
    at = {disk.path for disk in definition.parse(after).disks}
    missing = [name for name, record in records.items() if devices.path_of(record) not in at]
    if missing:
        raise XenhelperError(
            f"{vm}: libvirt's definition has no disk on {', '.join(missing)}", "see `virsh dumpxml`"
        )


def reload_hooks() -> None:
    """libvirt looks for hooks when its daemon starts or is told to read its files anew
    (virHookInitialize); a daemon that isn't running is left so."""
    try:
        for unit in _DAEMONS:
            if run(["systemctl", "is-active", "--quiet", unit], ok=None).status == 0:
                run(["systemctl", "reload", unit], timeout=60)
    except XenhelperError as error:
        replicate.warn(f"libvirt's daemon may not know of the hook yet: {error}; `systemctl reload libvirtd`")


def serve_look(peer: str, args: "dict[str, Any]") -> "dict[str, Any]":
    """Verb ``virt-look``: whether the domain could be defined here. Raises Refused."""
    vm = names.check_vm(args["vm"])
    host = os.uname().nodename
    try:
        api.require_stopped(vm)
        there = api.definition(vm)
    except XenhelperError as error:
        raise Refused(f"{vm} can't be defined on {host}: {error.what}", error.do) from error
    if there is not None and definition.parse(there).uuid != args["uuid"]:
        raise Refused(
            f"libvirt on {host} has another domain {vm} (with another UUID)", f"`virsh undefine {vm}` there"
        )
    return {"defined": there is not None}


def serve_define(peer: str, args: "dict[str, Any]") -> "dict[str, Any]":
    """Verb ``virt-define``: the same definition on this host; its disks must be those of a VM
    that is shared with the asker, under this very name."""
    vm, xml = names.check_vm(args["vm"]), args["xml"]
    host = os.uname().nodename
    fd = intents.lock(vm, wait=_LOCK_WAIT)
    try:
        records = provision.vm_records(vm)
        if not records or any(record.get("peer") != peer for record in records.values()):
            raise Refused(f"{vm} isn't replicated between {peer} and {host}")
        found = definition.parse(xml)
        serve_look(peer, {"vm": vm, "uuid": found.uuid})
        known = devices.records()
        for disk in found.disks if found.name == vm else ():
            name = devices.resource_at(disk.path, known, devices.device_number)
            if (name and known[name]["vm"] != vm) or devices.beneath_at(
                disk.path, known, devices.device_number
            ):
                raise Refused(f"{vm}: disk {disk.path[:80]} isn't its own on {host}")
        at = {disk.path for disk in found.disks}
        if found.name != vm or not any(devices.path_of(record) in at for record in records.values()):
            raise Refused(f"what {peer} sent isn't the definition of {vm}")
        vmfile.keep_original(vm, _on(xml, records, "volume"))
        api.define(xml)
        record = vmfile.record(vm)
        vmfile.write_record(vm, virt.config_of(vm), "", peer, list(records), record.get("last_ran", peer))
    finally:
        os.close(fd)
    reload_hooks()
    log.event("note", f"{vm}: defined at libvirt as on {peer}", log.NOTICE, vm=vm)
    return {}


def give_back(vm: str, records: "Mapping[str, Mapping[str, str]]") -> None:
    """The definition names the volumes again; what was changed besides stays. Raises
    XenhelperError when libvirt doesn't answer."""
    try:
        xml = api.definition(vm)
    except api.NotThere as error:
        kept = vmfile.original_path(vm)
        if os.path.exists(kept):
            replicate.warn(f"{vm}: its definition at libvirt stays on DRBD's devices: {error}")
        return
    if xml is None:
        return
    back = _on(xml, records, "volume")
    if back != definition.exchanged(xml, {}):
        api.define(back)


def memory_kib(vm: str) -> int:
    """What the VM needs, 0 when libvirt doesn't say."""
    try:
        xml = api.definition(vm)
        return definition.parse(xml).memory_kib if xml else 0
    except XenhelperError:
        return 0
