"""Everything that status shows, read once. Whatever can't be read becomes a note."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xenhelper import beneath, intents, lost, names, paths, statefile, virt
from xenhelper.drbd import events, proc, show
from xenhelper.errors import ConfigError, XenhelperError
from xenhelper.verify import results

T = TypeVar("T")
# seconds; a peer that is down must not hold up the one command that shows it is
PEER_TIMEOUT = 3.0


@dataclass(frozen=True)
class Domain:
    """A domain, by the name that xl shows."""

    name: str
    uuid: str


@dataclass
class World:
    """This host, and what its peers said (None: no answer). ``views``: how a peer sees the
    resources that it shares with this host, by resource; ``theirs``: its intents for them.
    ``holders``: what of dom0 has a resource open here whose VM has no domain here."""

    host: str
    protocol: str = "A"
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    vms: dict[str, dict[str, str]] = field(default_factory=dict)
    kernel: dict[str, events.Resource] = field(default_factory=dict)
    settings: dict[str, show.Settings] = field(default_factory=dict)
    domains: list[Domain] | None = None
    peers: dict[str, list[Domain] | None] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    theirs: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[int, proc.Progress] = field(default_factory=dict)
    verified: dict[str, results.Result] = field(default_factory=dict)
    intents: list[dict[str, str]] = field(default_factory=list)
    working: set[str] = field(default_factory=set)
    splits: dict[str, tuple[dict[str, object], dict[str, object] | None]] = field(default_factory=dict)
    wanted: list[str] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    writers_beneath: list[beneath.Finding] = field(default_factory=list)
    notes: list[tuple[str, str, str]] = field(default_factory=list)


def world() -> World:
    """Look now; at most a few seconds whatever is down."""
    found = World(os.uname().nodename)
    found.records = _or(found, beneath.records, {})
    found.vms = _or(found, _vms, {})
    peers = {record.get("peer", "") for record in found.records.values()}
    asked = [_ask(found, peer) for peer in sorted(peers) if names.valid_host(peer)]
    found.intents = _or(found, intents.all_open, [])
    found.working = {
        intent["vm"]
        for intent in found.intents
        if "vm" in intent and (intents.is_locked(intent["vm"]) or _libvirt_works(intent))
    }
    if found.records:
        found.kernel = _or(found, events.snapshot, {})
        _or(found, lambda: _running(found), None)
        found.verified = _or(found, lambda: _verified(found), {})
        found.writers_beneath = _or(found, lambda: beneath.scan(found.records), [])
        found.splits = _or(found, lambda: _splits(found), {})
    found.wanted = _or(found, lambda: statefile.names(paths.RUN + "/wanted"), [])
    _or(found, lambda: _left_over(found), None)
    found.gone = {name: path for name, record in found.records.items() if (path := lost.missing(record))}
    _configured(found)
    _xendomains(found)
    _or(found, lambda: _foreign_files(found), None)
    found.domains = _or(found, _domains, None)
    found.holders = _or(found, lambda: _holders(found), {})
    for thread in asked:
        thread.join(PEER_TIMEOUT + 1)
    return found


def _running(found: World) -> None:
    """How each connection runs, by /proc/drbd; drbdsetup is asked only where one is at C, the
    one protocol that allows two Primaries (ERR_NOT_PROTO_C, drbd_nl.c)."""
    text = proc.text()
    states = proc.parse(text)[1]
    for resource in found.kernel.values():
        state = states.get(resource.minor)
        resource.protocol = state.protocol if state else ""
    if not text or any(state.protocol == "C" for state in states.values()):
        found.settings = show.settings()
    if any(resource.replication not in ("Off", "Established") for resource in found.kernel.values()):
        found.progress = proc.progress(text)


def _holders(found: World) -> dict[str, str]:
    """For each such resource; all of /proc is read for it, so only where it is Primary."""
    from xenhelper.drbd import verbs

    here = {names.base_vm(domain.name) for domain in found.domains or []}
    held = {
        name: ", ".join(verbs.holders(state.minor))
        for name, state in found.kernel.items()
        if state.role == events.PRIMARY and found.records.get(name, {}).get("vm") not in {None, *here}
    }
    return {name: who for name, who in held.items() if who}


def _libvirt_works(intent: dict[str, str]) -> bool:
    """Whether this is the window of a migration that libvirt is at: it holds no lock of ours."""
    if intent.get("by") != virt.BY:
        return False
    from xenhelper.virt import settle

    return settle.at_work(intent["vm"])[0]


def _or(found: World, read: Callable[[], T], default: T) -> T:
    try:
        return read()
    except XenhelperError as error:
        found.notes.append(("error", error.what, error.do))
    except OSError as error:
        found.notes.append(("error", str(error), ""))
    return default


def _configured(found: World) -> None:
    from xenhelper import config

    try:
        settings = config.load()
        found.protocol = settings.protocol
        config.check_name(settings, os.uname().nodename)
    except ConfigError as error:
        found.notes.append(("error", error.what, error.do))


def _verified(found: World) -> dict[str, results.Result]:
    compared = statefile.names(f"{paths.STATE}/verify")
    read = {name: results.read(name) for name in compared if name in found.records}
    return {name: result for name, result in read.items() if result is not None}


def _splits(found: World) -> dict[str, tuple[dict[str, object], dict[str, object] | None]]:
    """Both sides' stories of each split brain (None: the other side is silent)."""
    folder = paths.STATE + "/split_brain"
    if not statefile.names(folder):
        return {}
    from xenhelper import splitbrain

    told: dict[str, tuple[dict[str, object], dict[str, object] | None]] = {}
    for name in statefile.names(folder):
        record = found.records.get(name)
        if record is None:
            continue
        theirs = None
        try:
            theirs = splitbrain.ask_story(record.get("peer", ""), name, timeout=PEER_TIMEOUT)
        except (XenhelperError, OSError):
            pass
        told[name] = (splitbrain.story(name, record), theirs)
    return told


def _left_over(found: World) -> None:
    """Old halves of VMs whose second copy was moved to another host."""
    if not os.path.isdir(paths.STATE + "/shelf"):
        return
    from xenhelper import shelf

    for vm, note in shelf.all_notes().items():
        hosts = " and ".join(note.get("hosts", "?").split(","))
        as_of = note.get("as_of", "")
        known = f" as of {as_of}" if not as_of.startswith("1970") else ""
        what = f"what is left of {vm} here is an old copy{known}: {hosts} have it"
        found.notes.append(("warning", what, f"once both have a good copy, {shelf.advice(vm)}"))


def _foreign_files(found: World) -> None:
    """One broken resource file of an administrator's own stops drbdadm for all resources."""
    if not found.records:
        return
    from xenhelper.drbd import resscan

    for name in sorted(os.listdir(paths.DRBD_D)):
        path = f"{paths.DRBD_D}/{name}"
        if not name.endswith(".res") or name.removesuffix(".res") in found.vms or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            text = file.read(resscan.MAX_FILE).decode("utf-8", "replace")
        if resscan.unclosed(text):
            what = f"{path} has a brace or a string that isn't closed, so drbdadm works for no resource"
            found.notes.append(("warning", what, f"correct {path}; `drbdadm sh-nop` says where"))


def _xendomains(found: World) -> None:
    """Debian's defaults there don't fit VMs that move."""
    if not found.records:
        return
    from xenhelper import xendomains

    problem = xendomains.problem(xendomains.text())
    if problem:
        do = 'set XENDOMAINS_SAVE="" and XENDOMAINS_RESTORE=false in /etc/default/xendomains'
        found.notes.append(("warning", problem, do))


def _vms() -> dict[str, dict[str, str]]:
    read = {name: statefile.read(f"{paths.VMS}/{name}") for name in statefile.names(paths.VMS)}
    return {name: record for name, record in read.items() if record is not None}


def _domains() -> list[Domain]:
    from xenhelper.xen import domains

    return [Domain(domain.name, domain.uuid) for domain in domains.listing()]


def _ask(found: World, peer: str) -> threading.Thread:
    def body() -> None:
        from xenhelper.peer import client

        found.peers[peer] = None
        try:
            answer = client.ask(peer, "status", {}, timeout=PEER_TIMEOUT)
        except (XenhelperError, OSError):
            return
        views, theirs = answer.get("resources"), answer.get("intents")
        if isinstance(views, dict):
            found.views.update({str(k): v for k, v in views.items() if isinstance(v, dict)})
        if isinstance(theirs, list):
            found.theirs += [{**item, "host": peer} for item in theirs if isinstance(item, dict)]
        listed = answer.get("domains")
        if isinstance(listed, list):
            found.peers[peer] = [
                Domain(str(item.get("name")), str(item.get("uuid")))
                for item in listed
                if isinstance(item, dict)
            ]

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread
