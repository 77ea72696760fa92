"""A half that was replaced: taken out of service on its host, kept, given back or removed.

``/var/lib/xenhelper/shelf/VM/`` holds what the host had of the VM: resources' records, resource
file, config. With these away nothing here brings the resources up, connects or starts the VM;
the data and metadata volumes stay as they were, under a tag of their own. The note says which
way it goes, so whatever is killed is gone on with by the reconciler.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from xenhelper import (
    insync,
    intents,
    log,
    moved,
    names,
    paths,
    permits,
    provision,
    statefile,
    vmfile,
    volumes,
)
from xenhelper.drbd import adm, events, proc, resfile
from xenhelper.errors import Refused, XenhelperError
from xenhelper.xen import vmconfig

FOLDER = paths.STATE + "/shelf"
TAG = "xenhelper.left-over="
AUTO = "/etc/xen/auto"
KEPT, RETURNING, REMOVING = "kept", "returning", "removing"
LOCK_WAIT = 25.0


def at(vm: str, name: str = "") -> str:
    return f"{FOLDER}/{names.check_vm(vm)}" + (f"/{name}" if name else "")


def note(vm: str) -> dict[str, str] | None:
    """What is on the shelf of ``vm``: ``hosts`` that have it now, ``was``, ``as_of``, ``state``."""
    return statefile.read(at(vm, "note"))


def all_notes() -> dict[str, dict[str, str]]:
    """The notes of all VMs on the shelf."""
    found = {vm: note(vm) for vm in statefile.names(FOLDER) if names.valid_vm(vm)}
    return {vm: record for vm, record in found.items() if record is not None}


def advice(vm: str) -> str:
    """What to type once nobody needs the old copy."""
    return f"`xenhelper forget {vm} --left-over` removes it"


def put(vm: str, hosts: Iterable[str], run_id: str = "") -> None:
    """Take this host's half of ``vm`` out of service. Precondition: the VM's lock is held.

    Raises Refused while the VM, or anything else, uses it here.
    """
    records = provision.vm_records(vm)
    check_idle(vm, records)
    times = [insync.last(name) or 0.0 for name in records]
    found = {"vm": vm, "state": KEPT, "id": run_id, "hosts": ",".join(sorted(hosts))}
    found |= {"was": moved.half(records.values())["was"], "as_of": insync.stamp(min(times, default=0.0))}
    statefile.write(at(vm, "note"), {**found, "at": insync.stamp(time.time())})
    _put(vm)
    log.event(
        "note",
        f"{vm}: {' and '.join(sorted(hosts))} have it now; the old half here is out of service and kept",
        log.WARNING,
        vm=vm,
    )


def check_idle(vm: str, records: Mapping[str, Mapping[str, str]]) -> None:
    """Raises Refused while the VM runs here, or one of its resources is in use."""
    from xenhelper.replicate_peer import domains_of

    host = os.uname().nodename
    running = domains_of(vm)
    if running:
        raise Refused(
            f"{vm} runs on {host} (as {running[0]})", f"`xl migrate` or `xl shutdown -w {vm}` first"
        )
    for intent in intents.all_open():
        if intent.get("vm") == vm:
            kind = intent.get("kind", "change")
            raise Refused(f"{vm}: a {kind} is still open on {host}", "`xenhelper reconcile` there first")
    states = proc.read()[1]
    for name, record in records.items():
        state = states.get(int(record["minor"]))
        if state is not None and state.role == events.PRIMARY:
            raise Refused(f"{name} is Primary on {host}", f"see `xenhelper status` on {host}")


def of_the_half(vm: str) -> dict[str, dict[str, str]]:
    """The half's records, on the shelf or still in place; not those of a later half."""
    was = (note(vm) or {}).get("was", "").split(",")
    found = {}
    for name in statefile.names(at(vm, "resources")):
        record = statefile.read(at(vm, f"resources/{name}"))
        if record is not None:
            found[name] = record
    found.update(provision.vm_records(vm))
    return {name: record for name, record in found.items() if moved.digest(record) in was}


def _put(vm: str) -> None:
    """Every step looks whether it is due: copies first, then what they are copies of."""
    records = of_the_half(vm)
    for name, record in records.items():
        adm.down(name, int(record["minor"]))
        statefile.write(at(vm, f"resources/{name}"), record)
    mine = vmfile.record(vm)
    if mine:
        statefile.write(at(vm, "vm"), mine)
    text = resfile.read(vm)
    if text is not None and resfile.is_ours(text, vm):
        statefile.write_atomically(at(vm, "res"), text.encode())
        statefile.remove(resfile.path(vm))
    path = _config(vm)
    config = vmfile.read(path) if path else None
    if config is not None and vmfile.is_of(config, vm):
        statefile.write_atomically(at(vm, "config"), vmconfig.to_bytes(config))
        for link in _auto(path):
            statefile.write_atomically(at(vm, "auto"), link.encode())
            statefile.remove(f"{paths.ROOT}{AUTO}/{link}")
        # it must not start an old copy; xl and xendomains find it nowhere
        statefile.remove(paths.ROOT + path)
    _tag(vm, records, away=True)
    for name in records:
        permits.revoke(name)
        statefile.remove(f"{paths.STATE}/ceded/{name}")
        statefile.remove(f"{paths.RESOURCES}/{name}")
    statefile.remove(f"{paths.VMS}/{vm}")


def _config(vm: str) -> str:
    record = vmfile.record(vm) or statefile.read(at(vm, "vm")) or {}
    path = record.get("config", "")
    return path if path.startswith("/") and path != "/dev/null" else ""


def _auto(path: str) -> list[str]:
    """The names in xendomains' folder that lead to this config."""
    folder = paths.ROOT + AUTO
    listed = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    wanted = (path, paths.ROOT + path, "../" + os.path.basename(path))
    return [
        name
        for name in listed
        if os.path.islink(f"{folder}/{name}") and os.readlink(f"{folder}/{name}") in wanted
    ]


def link(name: str, path: str) -> None:
    """Have xendomains know the config at ``path`` under ``name``, unless it knows that name."""
    folder = paths.ROOT + AUTO
    if "/" in name or name.startswith(".") or not name.isprintable() or not vmfile.storable(path):
        raise XenhelperError(f"{name[:80]!r} can't be a link to a VM's config in {AUTO}")
    # not every package of Xen's makes it
    os.makedirs(folder, mode=0o755, exist_ok=True)
    if not os.path.lexists(f"{folder}/{name}"):
        os.symlink(path, f"{folder}/{name}")


def autostarted(path: str) -> str:
    """The name by which xendomains knows the config at ``path``; '' when it doesn't."""
    return next(iter(_auto(path)), "")


def _tag(vm: str, records: Mapping[str, Mapping[str, str]], away: bool) -> None:
    known = {volume.path: volume for volume in volumes.volumes()}
    for name, record in records.items():
        ours = volumes.tags_for(vm, name, int(record["minor"]), int(record["port"]))
        for key in ("volume", "meta"):
            volume = known.get(record.get(key, ""))
            if volume is None:
                continue
            add = (TAG + vm,) if away else ours
            drop = [tag for tag in volume.tags if tag.startswith("xenhelper.") and tag not in add]
            volumes.change_tags(volume.path, add=add, drop=drop)


def take_back(vm: str, fresh: bool, revived: bool = False) -> None:
    """Put the half into service again. ``fresh``: with new metadata, so that everything is
    copied to it; ``revived``: by a person's word, against what other hosts may say of it later.
    Precondition: the VM's lock is held. Raises XenhelperError."""
    found = note(vm)
    if found is None:
        return
    how = {"fresh": "yes" if fresh else "no", moved.REVIVED: "yes" if revived else "no"}
    statefile.write(at(vm, "note"), {**found, "state": RETURNING, **how})
    _take_back(vm)


def settle(vm: str) -> None:
    """Go on with what was cut short. Precondition: the VM's lock is held."""
    state = (note(vm) or {}).get("state")
    if state == RETURNING:
        _take_back(vm)
    elif state == KEPT:
        _put(vm)


def _take_back(vm: str) -> None:
    records, found = of_the_half(vm), note(vm) or {}
    fresh, revived = (found.get(key) == "yes" for key in ("fresh", moved.REVIVED))
    _tag(vm, records, away=False)
    text = _text(vm, "res")
    if text is not None:
        statefile.write_atomically(resfile.path(vm), text)
    mine, config = statefile.read(at(vm, "vm")), _text(vm, "config")
    if mine is not None:
        path = mine.get("config", "")
        if config is not None and path and not os.path.exists(paths.ROOT + path):
            vmfile.store(path, config.decode(vmconfig.ENCODING, vmconfig.ERRORS))
            link = _text(vm, "auto")
            if link is not None and not os.path.lexists(f"{paths.ROOT}{AUTO}/{link.decode()}"):
                os.symlink(path, f"{paths.ROOT}{AUTO}/{link.decode()}")
        statefile.write(f"{paths.VMS}/{vm}", mine)
    for name, record in records.items():
        word = {moved.REVIVED: "yes"} if revived else {}
        statefile.write(f"{paths.RESOURCES}/{name}", {**record, **word})
    up = proc.read()[1]
    later = {name: int(record["minor"]) for name, record in records.items() if int(record["minor"]) not in up}
    for name, minor in later.items() if fresh else ():
        volumes.zero_start(records[name]["meta"])
        adm.create_md(minor, records[name]["meta"])
    if later:
        proc.require_module()
        adm.up(vm, later)
    clear(vm)
    log.event("note", f"{vm}: the half that was out of service is in service again", log.NOTICE, vm=vm)


def _text(vm: str, name: str) -> bytes | None:
    try:
        with open(at(vm, name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def clear(vm: str) -> None:
    """Drop what is on the shelf; the note, by which it is gone on with, last."""
    for name in statefile.names(at(vm, "resources")):
        statefile.remove(at(vm, f"resources/{name}"))
    for name in ("res", "vm", "config", "auto", "note"):
        statefile.remove(at(vm, name))
    for folder in (at(vm, "resources"), at(vm)):
        if os.path.isdir(folder):
            os.rmdir(folder)


def serve_retire(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``replace-retire``: the asker gives the second copy, which is here, to another
    host. Asking twice does no harm. Raises Refused while it is in use here."""
    vm = names.check_vm(args["vm"])
    records = provision.vm_records(vm)
    found = note(vm)
    if not records and found is not None and found.get("id") == args["id"]:
        return {"shelved": True}
    if not records:
        return {"shelved": False}
    if any(record.get("peer") != peer for record in records.values()):
        raise Refused(f"{vm} on {os.uname().nodename} isn't replicated with {peer}")
    if not names.valid_host(args["to"]) or len(args["id"]) > 40:
        raise XenhelperError(f"{vm}: what {peer} says of its new pair can't be noted")
    fd = intents.lock(vm, wait=LOCK_WAIT)
    try:
        if args["dry"]:
            check_idle(vm, records)
        else:
            put(vm, (peer, args["to"]), args["id"])
        return {"shelved": True}
    finally:
        os.close(fd)


def serve_return(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``replace-return``: that came to nothing, the half is wanted again."""
    vm = names.check_vm(args["vm"])
    found = note(vm)
    if found is None or found.get("id") != args["id"] or peer not in found.get("hosts", "").split(","):
        return {"returned": False}
    fd = intents.lock(vm, wait=LOCK_WAIT)
    try:
        take_back(vm, args["fresh"])
        return {"returned": True}
    finally:
        os.close(fd)


def serve_good(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``replace-good``: whether this host has a current copy of all of the VM's disks, and
    whether the other host of its pair has one, too."""
    records = provision.vm_records(names.check_vm(args["vm"]))
    states = [proc.read()[1].get(int(record["minor"])) for record in records.values()]
    here = bool(states) and all(state is not None and state.disk == events.UP_TO_DATE for state in states)
    both = here and all(
        state is not None and state.talks and state.peer_disk == events.UP_TO_DATE for state in states
    )
    return {"good": here, "both": both}
