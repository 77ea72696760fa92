"""Disks that a running VM lacks, or has unreplicated. Pure."""

import fnmatch
from collections.abc import Iterable

from xenhelper import names, paths, volumes
from xenhelper.alerts.store import ERROR, WARNING
from xenhelper.beneath import Backend
from xenhelper.config import Config
from xenhelper.virt import devices
from xenhelper.watch.world import LASTS, Wanted, World

# of a backend: its guest uses it
CONNECTED = "4"
# seconds: a domain that goes down lets go of one disk after the other, and a demotion may
# wait for 22 s (hotplug.py)
GOING_DOWN = 40.0


def missing(world: World, rebuilding: set[str]) -> Iterable[Wanted]:
    """A running VM that lacks a disk of its own."""
    given = {(disk.domain, name) for disk in world.backends or () if (name := _resource(world, disk))}
    beneath = {(finding.domain, finding.resource) for finding in world.beneath}
    alive = {disk.domain for disk in world.backends or () if disk.state == CONNECTED}
    for name, record in world.records.items():
        vm = record.get("vm", name)
        if vm in world.domains and vm not in rebuilding and (vm, name) not in given | beneath:
            yield Wanted(
                "without-disk",
                name,
                ERROR,
                f"{vm} runs here without its disk {record.get('vdev', '')} ({name})",
                f"`xl block-list {vm}`; if it was taken away on purpose: `xenhelper forget {vm}`, "
                "then `xl create`",
                vm,
                name,
                LASTS if vm in alive else GOING_DOWN,
            )


def _resource(world: World, disk: Backend) -> str:
    """The resource that a disk is on: by our block script, or its device itself (libvirt)."""
    if disk.script.endswith(paths.BLOCK_SCRIPT):
        return disk.params
    path = disk.params[disk.params.find("/") :] if "/" in disk.params else ""
    for name, record in world.records.items():
        minor = record.get("minor", "")
        if path in devices.names_of(name, minor) or disk.device.lower() == devices.number_of(minor) != "":
            return name
    return ""


def unreplicated(world: World, config: Config) -> Iterable[Wanted]:
    """Writable disks that policy would replicate, or that keep a replicated VM from moving."""
    ours = {record.get("vm", "") for record in world.records.values()}
    beneath = {finding.domid for finding in world.beneath}
    left: dict[str, list[str]] = {}
    for disk in world.backends or ():
        vm = names.base_vm(disk.domain)
        if disk.domid == "0" or vm != disk.domain or disk.domid in beneath or not disk.writable:
            continue
        if disk.script.endswith(paths.BLOCK_SCRIPT) or "/" not in disk.params or _resource(world, disk):
            continue
        path = disk.params[disk.params.find("/") :]
        if _left_out(vm, path, config) or not (vm in ours or _by_policy(path, config)):
            continue
        left.setdefault(vm, []).append(f"{disk.vdev or disk.devid} ({path})")
    for vm, disks in left.items():
        yield Wanted(
            "unreplicated",
            vm,
            WARNING,
            f"{vm} runs here with a disk that isn't replicated: {', '.join(disks)}",
            f"shut it down and `xl create` it, or leave it out in [replicate] of {paths.CONFIG}",
            vm,
            settles=LASTS,
        )


def _left_out(vm: str, path: str, config: Config) -> bool:
    named = volumes.split_path(path)
    name = "/".join(named) if named else path
    return any(fnmatch.fnmatchcase(vm, pattern) for pattern in config.exclude_vms) or any(
        fnmatch.fnmatchcase(name, pattern) for pattern in config.exclude_volumes + config.shared_volumes
    )


def _by_policy(path: str, config: Config) -> bool:
    named = volumes.split_path(path)
    return named is not None and named[0] in config.volume_groups
