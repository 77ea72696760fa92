"""Autostart follows the VM to where it ran last.

xendomains starts what is in /etc/xen/auto at boot, through the shim. What belongs to the
other host now is refused there, and the other host is told, should it have booted, too
(a power cut). What can't start only because the other host hasn't spoken yet stays
``wanted``, for this boot, and the reconciler starts it once it has.
"""

import os
import time

from xenhelper import handed, insync, intents, log, names, paths, statefile, virt
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.run import ENV, run
from xenhelper.xen import domains

_TRIES = 3
_CREATE = 240.0  # seconds: an `xl create` that has to ask, drain and wait
_FAILED_START = 45.0  # seconds: a block script takes 30 at most (hotplug.py)
HERE, THERE, RUNS, UNKNOWN = "here", "there", "runs", "unknown"


def _mark(vm: str) -> str:
    # /run: at each boot xendomains says anew what it wants
    return f"{paths.RUN}/wanted/{names.check_vm(vm)}"


def want(vm: str, config: str) -> None:
    """This VM should run here once that is known to be right."""
    statefile.write(_mark(vm), {"vm": vm, "config": config, "tries": "0"})


def wanted() -> "list[str]":
    """VMs that wait for the other host's word."""
    return statefile.names(paths.RUN + "/wanted")


def by_xendomains() -> bool:
    """Whether xendomains called (its script is the shim's parent, or the parent's parent)."""
    pid = os.getppid()
    for _ in range(3):
        try:
            with open(f"{paths.ROOT}/proc/{pid}/cmdline", "rb") as file:
                words = file.read(4096).split(b"\0")
            if any(word.endswith(b"/xendomains") for word in words[:4]):
                return True
            with open(f"{paths.ROOT}/proc/{pid}/stat", "rb") as file:
                pid = int(file.read(4096).rsplit(b")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if pid <= 1:
            return False
    return False


def active_at(record: "dict[str, str]") -> float:
    """When a host last gave out or took back the VM's disks, by its record; 0: never."""
    return max(insync.seconds(record.get(key, "")) or 0.0 for key in ("ran_at", "let_go_at"))


def decide(
    host: str, peer: str, here: "dict[str, str]", there: "dict[str, object] | None"
) -> "tuple[str, str]":
    """(HERE, THERE, RUNS or UNKNOWN, why) for a VM that should be started; pure.

    ``here`` is this host's record of the VM, ``there`` the peer's answer (None: silent).
    """
    if there is None:
        if here.get("last_ran", host) not in (host, ""):
            return UNKNOWN, f"it last ran on {here['last_ran']}, and {peer} doesn't answer yet"
        return HERE, ""
    running = there.get("domains")
    if isinstance(running, list) and running:
        if all(names.base_vm(str(name)) != name for name in running):
            return UNKNOWN, f"{peer} has an unfinished migration's half of it ({running[0]})"
        if there.get("unsettled"):
            return UNKNOWN, f"{peer} is starting it, or has it paused"
        return RUNS, f"it runs on {peer} (as {running[0]})"
    theirs = {key: str(there.get(key, "")) for key in ("ran_at", "let_go_at")}
    # the newer record knows; a migration's source notes where it went when it lets go
    mine, other = here.get("last_ran", ""), str(there.get("last_ran", ""))
    newer = active_at(theirs) - active_at(here)
    if not newer:
        # of one second: who gave the disks out in it did so once the other had let them go
        gave = [insync.seconds(record.get("ran_at", "")) == active_at(here) for record in (here, theirs)]
        newer = gave[1] - gave[0]
    if newer:
        last = (other or peer) if newer > 0 else (mine or host)
    else:  # both gave them out in it, or neither ever: both hosts must come to the same
        last = min(filter(None, (mine, other)), default=host)
    return (HERE, "") if last == host else (THERE, f"it last ran on {last}")


def _ask(vm: str, peer: str, timeout: float = 6.0) -> "dict[str, object] | None":
    from xenhelper.peer import client

    try:
        return client.ask(peer, "last-ran", {"vm": vm}, timeout=timeout)
    except (PeerUnreachable, PeerFailed):
        return None


def serve_last_ran(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``last-ran``: this host's record of a VM, and its domains here."""
    vm = names.check_vm(args["vm"])
    here = domains.find(vm)
    if not here:
        handed.settle(vm)
    record = statefile.read(f"{paths.VMS}/{vm}") or {}
    found: "dict[str, object]" = {key: record.get(key, "") for key in ("last_ran", "ran_at", "let_go_at")}
    # a start that fails yet must not look like a running VM to a host that wants it, too
    found["unsettled"] = bool(here) and all(_coming_or_going(domain) for domain in here)
    return {**found, "domains": [domain.name for domain in here]}


def _coming_or_going(domain: domains.Domain) -> bool:
    return "p" in domain.state[2:3] or "d" in domain.state[5:6]


def check(vm: str, config: str) -> None:
    """xendomains wants ``vm``: return when it may be tried here, else raise Refused."""
    record = statefile.read(f"{paths.VMS}/{vm}")
    if record is None:
        return
    host, peer = os.uname().nodename, record.get("peer", "")
    want(vm, config)
    what, why = decide(host, peer, record, _ask(vm, peer))
    if what == HERE:
        return
    if what == RUNS:
        statefile.remove(_mark(vm))
    raise Refused(
        f"{vm} isn't started here at boot: {why}", f"`xl create {config}` on {peer}, or by hand here"
    )


def ran_here(vm: str) -> None:
    """``vm`` runs here now, having come by migration: note it, once."""
    handed.forget(vm)
    path = f"{paths.VMS}/{vm}"
    record = statefile.read(path)
    host = os.uname().nodename
    if record is None:
        return
    for name in _resources(record):  # an earlier start that was refused a disk says nothing of this run
        statefile.remove(f"{paths.RUN}/refused/{name}")
    ran, let_go = (insync.seconds(record.get(key, "")) or 0.0 for key in ("ran_at", "let_go_at"))
    if record.get("last_ran") == host and 0.0 < ran >= let_go:
        return
    statefile.write(path, {**record, "last_ran": host, "ran_at": insync.stamp(time.time())})


def went_to(vm: str, host: str) -> None:
    """``vm`` was moved from here to ``host``."""
    path = f"{paths.VMS}/{vm}"
    record = statefile.read(path)
    if record is not None and record.get("last_ran") != host:
        statefile.write(path, {**record, "last_ran": host})


def _booted_at() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def ran_since(record: "dict[str, str]", booted: float) -> bool:
    """Whether the VM has run here since ``booted``. A start in which one disk was given out
    and another refused leaves the same traces, but lets go within the scripts' time."""
    ran, let_go = (insync.seconds(record.get(key, "")) or 0.0 for key in ("ran_at", "let_go_at"))
    return ran > booted and not 0.0 <= let_go - ran < _FAILED_START


def let_go(vm: str, resource: str) -> None:
    """No domain uses a disk that was given out, and its `remove`, which would have said so, never
    ran: soon after it was given out that start wasn't one. Raises XenhelperError."""
    ran = insync.seconds((statefile.read(f"{paths.VMS}/{vm}") or {}).get("ran_at", "")) or 0.0
    if 0.0 <= time.time() - ran < _FAILED_START:
        statefile.write(f"{paths.RUN}/refused/{resource}", {"why": "no domain came to use it"})


def _resources(record: "dict[str, str]") -> "list[str]":
    return [name for name in record.get("resources", "").split(",") if name]


def _ran_this_boot(record: "dict[str, str]") -> bool:
    # a disk that was refused at the last start: whatever the others say, it wasn't one
    # (their `remove`, which says so as well, isn't guaranteed)
    if any(os.path.exists(f"{paths.RUN}/refused/{name}") for name in _resources(record)):
        return False
    return ran_since(record, _booted_at())


def serve_autostart(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``autostart``: ``peer`` booted and would start a VM that ran here last. If this
    host booted as well and hasn't run it since, it starts it; otherwise somebody stopped
    it here on purpose."""
    vm = names.check_vm(args["vm"])
    record = statefile.read(f"{paths.VMS}/{vm}")
    if record is None or record.get("peer") != peer:
        raise Refused(f"{vm}: no VM shared with {peer}")
    here = domains.find(vm)
    if not here and handed.settle(vm):
        raise Refused(f"{vm} was migrated to {peer}")  # who asks looks again
    if _ran_this_boot(record) or here:
        return {"starts": False}
    want(vm, record.get("config", ""))
    return {"starts": True}


def start_wanted(dry_run: bool = False) -> "list[str]":
    """Called by the reconciler: start, pass on or drop what is wanted. Returns what is left
    for a person."""
    left = []
    for vm in wanted():
        try:
            line = _one(vm, dry_run)
        except XenhelperError as error:
            line = f"{vm}: {error}"
        if line:
            left.append(line)
    return left


def _one(vm: str, dry_run: bool) -> str:
    mark, record = statefile.read(_mark(vm)), statefile.read(f"{paths.VMS}/{vm}")
    if mark is None:
        return ""
    if intents.is_locked(vm):
        return ""  # a hook of libvirt's, say, that is at its start still, with no domain yet
    here = domains.find(vm)
    if any(_coming_or_going(domain) for domain in here):
        return ""  # being created or destroyed, or its xl died: the next look shows which
    if record is None or here or _ran_this_boot(record):
        if not dry_run:
            statefile.remove(_mark(vm))
        return ""
    host, peer = os.uname().nodename, record.get("peer", "")
    there = _ask(vm, peer)
    if there is None:
        return ""  # the block script would refuse; status says that it waits
    what, why = decide(host, peer, record, there)
    if what == UNKNOWN:
        return ""
    if dry_run:
        return f"{vm}: would be started" if what == HERE else f"{vm}: {why}"
    if what == THERE:
        from xenhelper.peer import client

        answer = client.ask(peer, "autostart", {"vm": vm}, timeout=8.0)
        what = RUNS
        log.event("autostart", f"{vm}: {why}; {peer} starts it: {answer.get('starts')}", log.NOTICE, vm=vm)
    if what == RUNS:
        statefile.remove(_mark(vm))
        return ""
    return _start(vm, mark)


def _unit_of_its_own() -> "list[str]":
    """What stays of an ``xl create`` (the xl that restarts the guest, an HVM guest's QEMU)
    belongs to the guest: systemd would end it with our unit, and it isn't to live in our
    sandbox (systemd.kill(5); a service started by PID 1 has neither)."""
    if not os.path.isdir(paths.ROOT + "/run/systemd/system"):
        return []
    properties = ["KillMode=process", f"RuntimeMaxSec={_CREATE:g}"]
    argv = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec"]
    argv += [f"--property={item}" for item in properties]
    return [*argv, *(f"--setenv={key}={value}" for key, value in ENV.items()), "--"]


def _start(vm: str, mark: "dict[str, str]") -> str:
    tries = int(mark.get("tries", "0")) + 1
    statefile.write(_mark(vm), {**mark, "tries": str(tries)})
    create = [f"{paths.LIBEXEC}/xl", "create", "--quiet", "--defconfig", mark.get("config", "")]
    # what libvirt starts is its daemon's, not ours
    argv = virt.start_command(vm) if virt.is_ours(mark) else [*_unit_of_its_own(), *create]
    try:
        run(argv, timeout=_CREATE + 10)
    except XenhelperError as error:
        if tries < _TRIES:
            return f"{vm}: not started yet: {error}"
        statefile.remove(_mark(vm))
        log.event("autostart", f"{vm}: can't be started: {error}", log.ERROR, vm=vm)
        return f"{vm}: can't be started, given up: {error}"
    statefile.remove(_mark(vm))
    log.event("autostart", f"{vm}: started, {vm}'s other host has spoken", log.NOTICE, vm=vm)
    return ""
