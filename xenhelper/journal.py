"""The journal read back: what xenhelper did and decided, of one VM or of all, on both hosts.

Written by log.py; read with python3-systemd. Only root's entries count: any user may log
under any identifier.
"""

import importlib
import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from xenhelper import log, names, paths, statefile
from xenhelper.errors import PeerFailed, PeerUnreachable, XenhelperError

# what one answer of a peer holds at most
MAX_ENTRIES = 500
_MAX_ANSWER = 200_000
_MAX_MESSAGE = 1000


@dataclass(frozen=True)
class Entry:
    """One entry. ``time`` in seconds since 1970, ``seconds`` how long it took ('' unknown)."""

    time: float
    host: str
    kind: str
    message: str
    vm: str = ""
    resource: str = ""
    intent: str = ""
    seconds: str = ""
    priority: int = log.INFO

    def of(self, vm: str, resources: Iterable[str] = ()) -> bool:
        """Whether it is about ``vm``, whose resources are or were these."""
        if self.vm or self.resource:
            return (
                self.vm == vm
                or self.resource in resources
                or (not self.vm and self.resource.rpartition("-")[0] == vm.replace(".", "_"))
            )
        return bool(re.search(rf"(?<![\w.+-]){re.escape(vm)}(?![\w.+-]|\.\w)", self.message))


def read(vm: str, since: float, limit: int) -> list[Entry]:
    """This host's entries after ``since`` (seconds since 1970), the last ``limit`` of them,
    oldest first; of ``vm`` ('' for all). Raises XenhelperError."""
    try:
        reader = importlib.import_module("systemd.journal").Reader()
    except (ImportError, OSError) as error:
        raise XenhelperError(f"the journal can't be read: {error}", "apt install python3-systemd") from error
    resources = resources_of(vm)
    found: list[Entry] = []
    with reader:
        reader.add_match(SYSLOG_IDENTIFIER="xenhelper", _UID="0")
        reader.seek_tail()
        while len(found) < limit:
            raw = reader.get_previous()
            if not raw:
                break
            entry = parse(raw)
            if entry.time < since:
                break
            if not vm or entry.of(vm, resources):
                found.append(entry)
    return found[::-1]


def resources_of(vm: str) -> set[str]:
    """Names of the VM's resources on this host."""
    found = set()
    for name in statefile.names(paths.RESOURCES):
        try:
            record = statefile.read(f"{paths.RESOURCES}/{name}")
        except XenhelperError:
            continue
        if record is not None and record.get("vm") == vm:
            found.add(name)
    return found


def parse(raw: dict[str, Any]) -> Entry:
    """From the fields of a journal entry, as python3-systemd gives them."""

    def text(key: str) -> str:
        value = raw.get(key, "")
        if isinstance(value, list):  # a field may be there twice
            value = value[0] if value else ""
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    when = raw.get("__REALTIME_TIMESTAMP")
    priority = text("PRIORITY")
    return Entry(
        time=when.timestamp() if when is not None else 0.0,
        host=text("_HOSTNAME"),
        kind=text("XENHELPER_EVENT") or "note",
        message=text("MESSAGE"),
        vm=text("XENHELPER_VM"),
        resource=text("XENHELPER_RESOURCE"),
        intent=text("XENHELPER_INTENT"),
        seconds=text("XENHELPER_SECONDS"),
        priority=int(priority) if priority.isdecimal() else log.INFO,
    )


def ask(peer: str, vm: str, since: float, limit: int, timeout: float = 15.0) -> list[Entry]:
    """The peer's entries of VMs that it shares with us. Raises PeerUnreachable, PeerFailed."""
    from xenhelper.peer import client

    answer = client.ask(peer, "log", {"vm": vm, "since": since, "limit": limit}, timeout=timeout)
    listed = answer.get("entries")
    found = []
    for item in listed if isinstance(listed, list) else []:
        try:
            found.append(
                Entry(
                    time=float(item["time"]),
                    host=peer,
                    priority=int(item["priority"]),
                    **{key: str(item[key]) for key in _TEXTS},
                )
            )
        except (KeyError, TypeError, ValueError):
            continue
    return found


_TEXTS = ("kind", "message", "vm", "resource", "intent", "seconds")


def serve(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``log``: entries of VMs shared with ``peer``, and of no other."""
    vm = names.check_vm(args["vm"]) if args["vm"] else ""
    shared: dict[str, set[str]] = {}
    for name in statefile.names(paths.RESOURCES):
        record = statefile.read(f"{paths.RESOURCES}/{name}") or {}
        if record.get("peer") == peer and record.get("vm"):
            shared.setdefault(record["vm"], set()).add(name)
    wanted = {vm: shared[vm]} if vm in shared else {} if vm else shared
    limit = max(0, min(args["limit"], MAX_ENTRIES))
    found: list[dict[str, Any]] = []
    size = 0
    for entry in reversed(read(vm, args["since"], limit if vm else MAX_ENTRIES)):
        if not any(entry.of(name, resources) for name, resources in wanted.items()):
            continue
        item = {**asdict(entry), "message": entry.message[:_MAX_MESSAGE]}
        size += len(json.dumps(item))
        if size > _MAX_ANSWER or len(found) >= limit:
            break
        found.append(item)
    return {"entries": found[::-1]}


def both(vm: str, peers: Iterable[str], since: float, limit: int) -> tuple[list[Entry], list[str]]:
    """Entries of all these hosts in the order of time, and a line for each that is silent."""
    found = read(vm, since, limit)
    silent = []
    for peer in peers:
        try:
            found += ask(peer, vm, since, limit)
        except (PeerUnreachable, PeerFailed) as error:
            silent.append(f"{peer}'s part is missing: {error.what}")
    return sorted(found, key=lambda entry: entry.time)[-limit:], silent


def story(entries: Iterable[Entry], one_vm: bool) -> str:
    """For a person: by day, one line each; ``one_vm``: it needn't be named."""
    lines: list[str] = []
    day = ""
    entries = list(entries)
    wide = max((len(entry.host) for entry in entries), default=0)
    for entry in entries:
        local = time.localtime(entry.time)
        today = time.strftime("%A, %Y-%m-%d", local)
        if today != day:
            lines += [*([""] if lines else []), today]
            day = today
        mark = "!" if entry.priority <= log.ERROR else "*" if entry.priority == log.WARNING else " "
        message = " ".join(entry.message.split())
        # what names no VM by itself gets it in front
        if entry.vm and not one_vm and entry.vm not in message:
            message = f"{entry.vm}: {message}"
        took = f" ({entry.seconds} s)" if entry.seconds and f"{entry.seconds} s" not in message else ""
        clock = time.strftime("%H:%M:%S", local)
        lines.append(f"  {clock} {mark} {entry.host:{wide}}  {message}{took}")
    return "\n".join(lines)
