"""An old copy that is left over on this host, its VM being other hosts' now: told, removed, or,
when those hosts are lost, used as the last one that there is. See shelf.py for how it is kept.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from xenhelper import intents, log, moved, names, provision, shelf, statefile, vmfile, volumes
from xenhelper.errors import ConfigError, PeerFailed, PeerUnreachable, Refused, XenhelperError


def remove(vm: str, dry: bool = False) -> list[str]:
    """``xenhelper forget VM --left-over``: remove the old half, its data too; a line each.

    Raises Refused unless a host that has the VM now says that its own copy is current.
    """
    from xenhelper.forget import drop_notes

    found = shelf.note(vm)
    if found is None:
        raise XenhelperError(
            f"{vm}: nothing of it is left over on this host", "`xenhelper status` lists what is"
        )
    if provision.vm_records(vm):
        raise Refused(f"{vm} is replicated on this host", "`xenhelper reconcile` first")
    hosts = [host for host in found.get("hosts", "").split(",") if names.valid_host(host)]
    fd = intents.lock(vm, wait=shelf.LOCK_WAIT)
    try:
        if found.get("state") != shelf.REMOVING:
            _require_good(vm, hosts)
        left = [volume for volume in volumes.volumes() if shelf.TAG + vm in volume.tags]
        lines = [f"remove {volume.path}" for volume in left]
        lines.append(f"remove {shelf.at(vm)}, with its old config in it")
        if dry:
            return lines
        statefile.write(shelf.at(vm, "note"), {**found, "state": shelf.REMOVING})
        for volume in left:
            volumes.remove(volume, shelf.TAG + vm)
        for name, record in shelf.of_the_half(vm).items():
            drop_notes(name, record)
        statefile.remove(vmfile.original_path(vm))
        shelf.clear(vm)
    finally:
        os.close(fd)
    _tell_gone(vm, hosts)
    return lines


def revive(vm: str, hosts_are_dead: bool, dry: bool = False) -> str:
    """``xenhelper takeover VM --left-over``: the hosts that have the VM are lost, and the old copy
    here is the last one. Into service with it; its takeover is another step. Returns what was,
    or would be, done. Raises Refused while one of those hosts shows a sign of life."""
    from xenhelper import alive, config

    found = shelf.note(vm)
    if found is None:
        raise XenhelperError(
            f"{vm}: nothing of it is left over on this host", "`xenhelper status` lists what is"
        )
    settings = config.load()
    hosts = found.get("hosts", "").split(",")
    for host in hosts:
        sign = alive.sign_of_life(settings.peers[host]) if host in settings.peers else ""
        if sign:
            raise Refused(f"{vm}: {host} has it, and isn't dead: {sign}", f"`xenhelper status` on {host}")
    if not hosts_are_dead:
        raise Refused(
            f"{vm}: nothing proves that {' and '.join(hosts)} are dead",
            "switch both off, then add --peer-is-dead",
        )
    if not dry:
        fd = intents.lock(vm, wait=shelf.LOCK_WAIT)
        try:
            shelf.take_back(vm, fresh=False, revived=True)
        finally:
            os.close(fd)
    return f"put the old copy of {vm} into service again"


def _require_good(vm: str, hosts: Iterable[str]) -> None:
    from xenhelper.peer import client

    said = []
    for host in hosts:
        try:
            answer = client.ask(host, "replace-good", {"vm": vm}, timeout=10.0)
        except (PeerFailed, PeerUnreachable) as error:
            said.append(error.what)
            continue
        if answer.get("good"):
            return
        said.append(f"{host}'s copy isn't current")
    raise Refused(
        f"{vm}: the old copy here may be the best that there is: {'; '.join(said) or 'nobody has another'}",
        "when one of them has a current copy, again",
    )


def _tell_gone(vm: str, hosts: Iterable[str]) -> None:
    from xenhelper.peer import client

    for host in hosts:
        try:
            client.ask(host, "replaced-gone", {"vm": vm}, timeout=10.0)
        except (PeerFailed, PeerUnreachable) as error:
            log.event("note", f"{vm}: {host} doesn't know yet that its old half is gone: {error}", log.NOTICE)


def go_on() -> list[str]:
    """For the reconciler: finish what was cut short of taking a half out of service, or of
    putting it back. Returns what is left for a person."""
    left = []
    for vm, found in shelf.all_notes().items():
        there = bool(provision.vm_records(vm).keys() & shelf.of_the_half(vm).keys())
        state = found.get("state")
        if not (state == shelf.RETURNING or (state == shelf.KEPT and there)):
            continue
        try:
            _held(vm, shelf.settle)
        except XenhelperError as error:
            left.append(f"{vm}: {error}")
    return left


def look(records: Iterable[Mapping[str, str]], dry_run: bool) -> list[str]:
    """For the reconciler, while a resource isn't connected: ask whether this half of its VM was
    replaced meanwhile, and take it out of service. Returns what is left for a person."""
    by_vm: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        by_vm.setdefault(record["vm"], []).append(record)
    from xenhelper import config

    try:
        peers = sorted(config.load().peers)
    except ConfigError:
        return []  # status and doctor tell what is wrong with the file
    left = []
    for vm, told in moved.asked(peers).items():
        fitting = [item for item in told if moved.fits(item, by_vm.get(vm, ()))]
        if not fitting:
            continue
        hosts = [host for host in fitting[0].get("hosts", "").split(",") if names.valid_host(host)]
        if dry_run:
            left.append(f"{vm}: was moved to {' and '.join(hosts)} meanwhile; would be taken out of service")
            continue
        try:
            _held(vm, partial(shelf.put, hosts=hosts))
        except XenhelperError as error:
            left.append(f"{vm} was moved to {' and '.join(hosts)} meanwhile, and is in use here: {error}")
    return left


def _held(vm: str, work: Callable[[str], None]) -> None:
    fd = intents.lock(vm, wait=0.0, who="reconcile")
    try:
        work(vm)
    finally:
        os.close(fd)
