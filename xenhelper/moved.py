"""Whose second copy has moved: notes for a host that was replaced and comes back one day.

``/var/lib/xenhelper/moved/VM@HOST`` on both hosts of the new pair says that HOST's half of VM
isn't wanted any more. HOST asks for it (verb ``replaced``) whenever one of its resources isn't
connected. A note names the half by a digest of its secrets, which each pair has of its own: an
old note never fits a half that was made later.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from xenhelper import names, paths, statefile
from xenhelper.errors import PeerFailed, PeerUnreachable, XenhelperError
from xenhelper.insync import stamp

FOLDER = paths.STATE + "/moved"
# the key of a record that a person has put into service again, whatever notes say of it
REVIVED = "revived"
_WAS = re.compile(r"[0-9a-f]{16}(,[0-9a-f]{16}){0,63}")
_PORTS = re.compile(r"\d{1,5}(,\d{1,5}){0,63}")
# seconds for each host that is asked
_ANSWER = 4.0


def path(vm: str, host: str) -> str:
    """Where the note is that ``host`` was replaced for ``vm``."""
    if not names.valid_host(host):
        raise XenhelperError(f"{host[:80]!r} can't be a host's name")
    return f"{FOLDER}/{names.check_vm(vm)}@{host}"


def digest(record: Mapping[str, str]) -> str:
    """What tells a resource's half of one pair from that of another, later pair."""
    return hashlib.sha256(record.get("secret", "").encode()).hexdigest()[:16]


def half(records: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What a note keeps of the half that these records (of either end) describe."""
    listed = list(records)
    was = ",".join(sorted(digest(record) for record in listed))
    return {"was": was, "ports": ",".join(sorted({record.get("port", "") for record in listed}))}


def valid(found: Mapping[str, Any]) -> bool:
    """Whether :func:`write` takes it."""
    return all(
        isinstance(found.get(key), str) and pattern.fullmatch(found[key]) is not None
        for key, pattern in (("was", _WAS), ("ports", _PORTS))
    )


def write(vm: str, host: str, hosts: Iterable[str], found: Mapping[str, Any]) -> None:
    """Note that ``host``'s half (see :func:`half`; it may come from the peer) is replaced, and
    ``hosts`` have the VM now. Raises XenhelperError."""
    if not valid(found):
        raise XenhelperError(f"{vm}: what is said of {host}'s old half can't be noted")
    record = {"vm": vm, "host": host, "hosts": ",".join(sorted(hosts)), "at": stamp(time.time())}
    statefile.write(path(vm, host), {**record, "was": found["was"], "ports": found["ports"]})


def drop(vm: str, host: str) -> None:
    """``host`` has nothing of it any more, or is one of the pair again."""
    if os.path.exists(path(vm, host)):
        statefile.remove(path(vm, host))


def notes() -> list[dict[str, str]]:
    """All notes of this host."""
    found = (statefile.read(f"{FOLDER}/{name}") for name in statefile.names(FOLDER))
    return [note for note in found if note is not None]


def ports() -> set[int]:
    """Ports that a replaced host may still try to connect to: given to nobody else."""
    return {int(port) for note in notes() for port in note.get("ports", "").split(",") if port.isdecimal()}


def serve(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``replaced``: of which VMs the asker's half was replaced, as far as this host knows."""
    mine = [note for note in notes() if note.get("host") == peer]
    return {"vms": {note["vm"]: {key: note[key] for key in ("hosts", "was", "at")} for note in mine}}


def serve_gone(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``replaced-gone``: the asker has removed its old half."""
    drop(args["vm"], peer)
    return {}


def fits(note: Mapping[str, Any], records: Iterable[Mapping[str, str]]) -> bool:
    """Whether ``note`` (a host's answer) is of the very half that these records are (pure)."""
    was = str(note.get("was", "")).split(",")
    listed = list(records)
    revived = any(record.get(REVIVED) == "yes" for record in listed)
    return bool(listed) and not revived and all(digest(record) in was for record in listed)


def asked(peers: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """What these hosts know of replaced halves of this one, by VM; a silent host knows nothing."""
    from xenhelper.peer import client

    found: dict[str, list[dict[str, str]]] = {}
    for peer in peers:
        try:
            told = client.ask(peer, "replaced", {}, timeout=_ANSWER).get("vms")
        except (PeerFailed, PeerUnreachable):
            continue
        for vm, note in told.items() if isinstance(told, dict) else ():
            if names.valid_vm(str(vm)) and isinstance(note, dict):
                found.setdefault(str(vm), []).append({str(key): str(value) for key, value in note.items()})
    return found


def elsewhere(vm: str, silent: str) -> str:
    """Which hosts have ``vm`` now, by the word of any peer but the ``silent`` one, if this host's
    half was replaced while it was away; '' when nobody says so."""
    from xenhelper import config, provision

    try:
        others = sorted(set(config.load().peers) - {silent})
    except XenhelperError:
        return ""  # a mistake in the file is no reason why a VM shouldn't start
    records = provision.vm_records(vm).values()
    for note in asked(others).get(vm, ()):
        if fits(note, records):
            return " and ".join(note.get("hosts", "").split(","))
    return ""
