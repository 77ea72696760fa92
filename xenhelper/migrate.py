"""``xl migrate`` through the shim: check, open the window, run the real xl, close.

While the real xl runs, the shim waits for the guest's suspension and then hands its
disks over, beside libxl's last memory pass. The VM's lock is inherited by the real xl,
so that nobody repairs a window in which a migration still goes on without its shim.
"""

import fnmatch
import getopt
import os
import signal
import sys
import time
from collections.abc import Iterable

from xenhelper import config, destination, hosts, intents, log, names, permits, statefile, virt, volumes
from xenhelper import paths as where
from xenhelper.drbd import events
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer import client
from xenhelper.window import Window
from xenhelper.xen import description, domains
from xenhelper.xen.xenstore import Xenstore, XenstoreError

_LONG = ["debug", "live", "postcopy", "help"]
_SHORT = "FC:s:eph"  # main_migrate() in xl_migrate.c
_URGENT = -10  # a nice value: some nine times the share of a process at 0


def main(argv: "list[str]") -> int:
    """``argv``: all that was typed after xl. Returns xl's exit status or ours (3: refused)."""
    at = argv.index("migrate")
    try:
        options, rest = getopt.gnu_getopt(argv[at + 1 :], _SHORT, _LONG)
    except getopt.GetoptError:
        return _plain(argv)
    if len(rest) != 2 or any(option in ("-h", "--help") for option, _ in options):
        return _plain(argv)  # xl says what is wrong with it
    domain = description.describe(rest[0])
    if not domain.resources and names.valid_vm(domain.vm) and virt.runs_by(domain.vm):
        raise Refused(
            f"{domain.vm} runs by libvirt, which wouldn't know where it went",
            f"`virsh migrate --live {domain.vm} xen+ssh://{rest[1][:64]}/system`",
        )
    if not _ours(domain):
        return _plain(argv)
    window = _checked(domain, rest[1])
    return _run(argv, window, domain.domid)


def _plain(argv: "list[str]") -> int:
    xl = domains.real_xl()
    os.execv(xl, ["xl", *argv])


def _ours(domain: description.Description) -> bool:
    """Whether any disk is, or by policy ought to be, replicated; other VMs stay untouched."""
    if domain.resources:
        return True
    settings = config.load()
    if any(fnmatch.fnmatchcase(domain.vm, pattern) for pattern in settings.exclude_vms):
        return False
    return any(
        disk.writable and not disk.cdrom and not disk.script and _ought(settings, disk.path)
        for disk in domain.disks
    )


def _ought(settings: config.Config, path: str) -> bool:
    named = volumes.split_path(path)
    if named is None or named[0] not in settings.volume_groups:
        return False
    left_out = settings.exclude_volumes + settings.shared_volumes
    return not any(fnmatch.fnmatchcase("/".join(named), pattern) for pattern in left_out)


def _checked(domain: description.Description, host: str) -> Window:
    """Everything that can be known before anything changes. Raises Refused."""
    settings = config.load()
    config.check_name(settings, os.uname().nodename)
    vm = domain.vm
    if vm != domain.name:
        raise Refused(f"{domain.name} is in the middle of a migration", "see `xenhelper status`")
    if domain.pci:
        raise Refused(f"{vm} has a PCI device ({', '.join(domain.pci)})", f"`xl pci-detach {vm} …` first")
    for disk in domain.disks:
        if disk.managed or not disk.writable or disk.cdrom:
            continue
        named = volumes.split_path(disk.path)
        name = "/".join(named) if named else disk.path
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.shared_volumes):
            raise Refused(
                f"{vm}: disk {disk.vdev} ({disk.path}) is neither replicated nor declared shared",
                "replicate it (shut the VM down, then `xl create`), or name it in shared_volumes",
            )
    # that this Xen has what the other kinds need shows in the guest's running here
    why = destination.can_migrate(domain.kind, destination.xen_info()) if domain.kind == "pv" else ""
    if why:
        raise Refused(f"{vm} is a {domain.kind.upper()} guest: {why}")
    peer = _peer(vm, domain.resources)
    known = settings.peers.get(peer)
    if known is None:
        raise Refused(f"{vm}: its other host {peer} isn't in {where.CONFIG}", f"`xenhelper setup {peer}`")
    if not hosts.is_host(host, known):
        other = next((one.name for one in settings.peers.values() if hosts.is_host(host, one)), "")
        first = f"`xenhelper replicate {vm} --peer {other or 'HOST'}`"
        raise Refused(
            f"{vm} can't move to {host}: its disks are on {settings.host} and {peer}",
            f"`xl migrate {vm} {peer}`; {first} gives another host the copy of {peer}"
            + ("" if other else ", once `xenhelper setup HOST` has made it a peer"),
        )
    _all_in_sync(vm, peer, domain.resources)
    try:
        client.ask(
            peer,
            "destination-check",
            {
                "vm": vm,
                "memory_kib": domain.memory_kib,
                "bridges": list(domain.bridges),
                "files": list(domain.files),
                "kind": domain.kind,
                "resources": domain.resources,
            },
            timeout=30.0,
        )
    except PeerUnreachable as error:
        raise Refused(f"{peer} doesn't answer: {error.what}", f"is {peer} up? `xenhelper doctor`") from error
    except PeerFailed as error:
        raise Refused(str(error)) from error
    return Window(vm, domain.resources, peer, settings.host, domain.uuid)


def _all_in_sync(vm: str, peer: str, resources: "list[str]") -> None:
    """What this host knows of itself needn't wait for the peer, which may notice later and in part."""
    state = {name: events.one(name) for name in resources}
    behind = [f"{name} ({seen or 'not up'})" for name, seen in state.items() if not seen or not seen.in_sync]
    if behind:
        raise Refused(
            f"{vm} can't move to {peer}: not Connected and UpToDate on both hosts: {'; '.join(behind)}",
            "see `xenhelper status`",
        )


def _peer(vm: str, resources: "list[str]") -> str:
    peers = set()
    for name in resources:
        record = statefile.read(f"{where.RESOURCES}/{name}")
        if record is None:
            raise Refused(
                f"{vm}: xenhelper has no record of resource {name}", f"`xenhelper replicate` {vm}'s config"
            )
        if record.get("vm", vm) != vm:
            raise Refused(
                f"{vm} runs on disks of {record['vm']} ({name}), so it was renamed",
                f"`xl rename {vm} {record['vm']}`, then it migrates",
            )
        peers.add(record["peer"])
    if len(peers) != 1:
        raise Refused(f"{vm}: its disks are on different hosts ({', '.join(sorted(peers)) or 'none'})")
    return peers.pop()


def _run(argv: "list[str]", window: Window, domid: int) -> int:
    """Window, real xl, close. From here on signals reach the real xl, not this shim."""
    vm = window.vm
    fd = intents.lock(vm, inherit=True)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        started = time.monotonic()
        window.open()
        status = _migrate(argv, window, domid, handlers)
        left = window.close(30.0 if status else 20.0)
        if status and not left:
            _still_here(vm, window.resources)
    finally:
        os.close(fd)
    seconds = time.monotonic() - started
    if status == 0:
        from xenhelper import autostart

        autostart.went_to(vm, window.peer)
    _count(status, seconds)
    if left:
        for line in left:
            log.event(
                "failed", f"{vm}: the window isn't closed: {line}", log.ERROR, vm=vm, intent=f"window-{vm}"
            )
            print(f"xenhelper: {line}; `xenhelper reconcile`", file=sys.stderr)
        return status or 1
    log.event(
        "window-closed",
        f"{vm}: xl migrate ended with {status} after {seconds:.1f} s",
        vm=vm,
        intent=f"window-{vm}",
        seconds=f"{seconds:.1f}",
    )
    return status


def _count(status: int, seconds: float) -> None:
    """For the metrics."""
    from xenhelper import counters

    name = counters.MIGRATIONS_FAILED if status else counters.MIGRATIONS
    counters.add(**{name: 1, counters.MIGRATION_SECONDS: seconds})


def _still_here(vm: str, resources: "list[str]") -> None:
    """xl gave up: the guest goes on here, and perhaps alone."""
    try:
        permits.keep_survivor(vm, resources)
    except XenhelperError as error:  # the reconciler looks again
        log.event("note", f"{vm}: {error}", log.WARNING, vm=vm)


def _migrate(argv: "list[str]", window: Window, domid: int, ignored: "Iterable[signal.Signals]") -> int:
    """Run the real xl to its end, grant once the guest is suspended, let its disks go after it."""
    store: "Xenstore | None" = None
    try:
        store = Xenstore()
        store.watch("@releaseDomain", "xh")
    except XenstoreError as error:
        store = None  # the destination's `add` asks for the grant then
        log.event("note", f"{window.vm}: {error}", log.WARNING, vm=window.vm)
    pid = _start_xl(argv, ignored)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    from xenhelper import ahead  # xl is at work meanwhile

    leaving: "ahead.Leaving | None" = None
    try:
        while True:
            ended, raw = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(raw)
            try:
                if store is None:
                    time.sleep(0.2)
                elif leaving is None:
                    if store.next_event(0.5) and _suspended(domid):
                        _hurry()
                        _grant(window, domid)
                        leaving = ahead.Leaving(store, domid, window.resources)
                elif store.next_event(0.2):
                    leaving.look()
            except (XenhelperError, OSError) as error:
                # xl runs: whatever this was, it is waited for
                if store is not None:
                    store.close()
                store = None  # the block scripts at both ends do without
                log.event("note", f"{window.vm}: {error}", log.WARNING, vm=window.vm)
    finally:
        if store is not None:
            store.close()


def _hurry() -> None:
    """The guest stands still from now on, and then both hosts are Primary: the few steps that
    end this come before the scripts that libxl starts at the same time, one for each device."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _URGENT)
    except OSError as error:
        log.event("note", f"this process's priority can't be raised: {error}", log.DEBUG)


def _start_xl(argv: "list[str]", ignored: "Iterable[signal.Signals]") -> int:
    """The real xl as a child, with what it inherits (the VM's lock); its pid."""
    xl = domains.real_xl()
    pid = os.fork()
    if pid == 0:
        try:
            for number in ignored:
                signal.signal(number, signal.SIG_DFL)
            os.execv(xl, ["xl", *argv])
        finally:
            os._exit(127)  # an exec that failed must not go on as a second shim
    return pid


def _suspended(domid: int) -> bool:
    return any(domain.domid == domid and domain.suspended for domain in domains.listing())


def _resumed(domid: int) -> bool:
    """The guest goes on here; a domain that is gone doesn't."""
    return any(domain.domid == domid and not domain.suspended for domain in domains.listing())


def _grant(window: Window, domid: int) -> None:
    try:
        window.grant(lambda: _resumed(domid))
    except XenhelperError as error:
        # nothing is lost: the destination's `add` asks again, and fails if it must
        log.event("note", f"{window.vm}: not handed over yet: {error}", log.WARNING, vm=window.vm)
