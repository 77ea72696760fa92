"""`xenhelper tune --resync`: the resync settings of a new resource for existing ones, on
both hosts, in their file and as they run.

The file is the same on both hosts, so the change has an intent: interrupted, it is made
again, whole, by the reconciler or the next run. Between its steps nothing is at risk:
these settings may differ between two connected hosts.
"""

import json
import os
from typing import Any

from xenhelper import config, intents, log, names, paths, provision, statefile
from xenhelper.config import Config
from xenhelper.drbd import bringup, events, resfile, show
from xenhelper.drbd import knobs as knobs_of
from xenhelper.drbd.knobs import Knobs
from xenhelper.errors import Busy, Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.run import run as run_program
from xenhelper.tuning import link

KIND = "tune"


def run(vms: list[str], dry_run: bool = False) -> tuple[list[str], list[str]]:
    """(what was, or would be, changed; what couldn't be), a line a VM. Raises
    XenhelperError for a VM that isn't there."""
    settings, records = config.load(), provision.vm_records()
    known = sorted({record["vm"] for record in records.values()})
    for vm in vms:
        if vm not in known:
            raise XenhelperError(f"{vm}: not replicated on this host", "`xenhelper status` lists all")
    changed, failed = [], []
    for vm in vms or known:
        try:
            line = _one(vm, settings, dry_run)
            changed += [line] if line else []
        except XenhelperError as error:
            failed.append(str(error))
    return changed, failed


def _one(vm: str, settings: Config, dry_run: bool) -> str:
    peer = next(record["peer"] for record in provision.vm_records(vm).values())
    there = ask(peer, "tune-link", {"vm": vm}, timeout=20.0)
    wanted = link.for_pair(link.facts(settings, settings.peer(peer)), there)
    has = resfile.knobs(resfile.read(vm) or "")
    half = intents.read(KIND, vm) is not None
    same = bool(has) and all(one.of_link == wanted for one in has.values())
    if same and there.get("knobs") == _json(has) and not half:
        return ""
    what = f"{vm}: {', '.join(knobs_of.render(wanted, knobs_of.DISK + knobs_of.NET))}".replace(";", "")
    if dry_run:
        return what
    fd = intents.lock(vm, who="tune")
    try:
        _unhindered(vm)
        intents.write(KIND, vm, peer=peer, knobs=json.dumps(wanted.to_json()))
        _carry_out(vm, peer, wanted)
    finally:
        os.close(fd)
    return what


def _carry_out(vm: str, peer: str, wanted: Knobs) -> None:
    ask(peer, "tune-resync", {"vm": vm, "knobs": wanted.to_json()}, timeout=60.0)
    here(vm, wanted)
    intents.remove(KIND, vm)


def recover(vm: str) -> str:
    """For the reconciler, which holds the VM's lock: make an interrupted change whole.
    Returns what was done, '' when nothing was due."""
    intent = intents.read(KIND, vm)
    if intent is None:
        return ""
    if not provision.vm_records(vm):
        intents.remove(KIND, vm)  # forgotten meanwhile
        return "dropped"
    _carry_out(vm, intent.get("peer", ""), _checked(json.loads(intent.get("knobs", "{}"))))
    return "tuned"


def _unhindered(vm: str) -> None:
    """While another change is open nothing touches the VM's resources. Raises Busy."""
    if any(intent.get("vm") == vm and intent.get("kind") != KIND for intent in intents.all_open()):
        raise Busy(f"{vm}: a change of it isn't finished", "`xenhelper reconcile`, then try again")


def here(vm: str, wanted: Knobs) -> None:
    """This host's part: the file, then what runs. Precondition: the VM's lock is held."""
    text = resfile.read(vm)
    if text is None or not resfile.is_ours(text, vm):
        raise Refused(f"{resfile.path(vm)} isn't what xenhelper wrote for {vm}")
    changed = resfile.with_knobs(text, wanted)
    if changed != text:
        statefile.write_atomically(resfile.path(vm), changed.encode())
        try:
            bringup.adm(vm, "sh-nop")
        except XenhelperError:
            statefile.write_atomically(resfile.path(vm), text.encode())
            raise
    has = resfile.knobs(changed)
    for name, record in provision.vm_records(vm).items():
        _set(name, int(record["minor"]), wanted)
        knobs = json.dumps(has.get(name, wanted).to_json())
        if record.get("knobs") != knobs:
            # a file that is lost comes back from the record (rebuild.py)
            statefile.write(f"{paths.RESOURCES}/{name}", {**record, "knobs": knobs})
    log.event("note", f"{vm}: its resources have the settings of the link now", vm=vm)


def _set(name: str, minor: int, wanted: Knobs) -> None:
    """What runs. A resource that is down, diskless or StandAlone takes it from its file."""
    state = events.one(name)
    if state is None or state.minor != minor:
        return
    if state.disk != "Diskless":
        options = knobs_of.options(wanted, knobs_of.DISK)
        run_program(["drbdsetup", "disk-options", str(minor), *options], timeout=20)
    ends = show.one(name)
    if ends is not None and ends.local and ends.remote:
        options = knobs_of.options(wanted, knobs_of.NET)
        run_program(["drbdsetup", "net-options", ends.local, ends.remote, *options], timeout=20)


def _json(has: dict[str, Knobs]) -> dict[str, Any]:
    return {name: knobs.to_json() for name, knobs in has.items()}


def _checked(values: Any) -> Knobs:
    try:
        return knobs_of.checked(values)
    except (ValueError, AttributeError) as error:
        raise XenhelperError(f"resync settings can't be read ({error})") from error


def serve_link(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """This host's side of the link, and what the VM's file holds here."""
    vm = names.check_vm(args["vm"])
    settings = config.load()
    found = link.facts(settings, settings.peer(peer))
    return {**found, "knobs": _json(resfile.knobs(resfile.read(vm) or ""))}


def serve_resync(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """The peer's part of a change that the asker holds an intent of. Asking twice does no
    harm."""
    vm = names.check_vm(args["vm"])
    records = provision.vm_records(vm)
    if not records or any(record.get("peer") != peer for record in records.values()):
        raise Refused(f"{vm} isn't replicated between {peer} and {os.uname().nodename}")
    wanted = _checked(args["knobs"])
    fd = intents.lock(vm, wait=20.0, who="tune")
    try:
        _unhindered(vm)
        here(vm, wanted)
    finally:
        os.close(fd)
    return {}
