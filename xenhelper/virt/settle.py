"""What the reconciler must know of VMs that libvirt runs."""

import os
import time

from xenhelper import handed, insync, intents, log, paths, virt
from xenhelper.errors import CommandFailed, PeerFailed, PeerUnreachable
from xenhelper.virt import api, hold, moving
from xenhelper.xen import domains

# seconds after which a job is one that libvirt has forgotten: a client that dies at the wrong
# moment leaves one until the daemon's restart
_FORGOTTEN = 900.0
# seconds: a window's opening with its drain, and a hand-over; the stream is seen besides
_SETTLING = 90.0
# the kernel's name of libxl-save-helper, which reads or writes the stream for its whole time
_STREAM = "libxl-save-help"
CLOSE, LEAVE, GO_ON = "close", "leave", "go-on"


def at_work(vm: str) -> "tuple[bool, str]":
    """(whether libvirt is at work on ``vm``, so that nothing may be put right now; a line when
    that can't be known)."""
    doing, seconds = api.activity(vm)
    if doing == api.UNKNOWN:
        return True, f"{vm}: libvirt, which runs it, doesn't answer; `systemctl status libvirtd`"
    if doing == api.IDLE:
        return False, ""
    if not seconds:
        return True, ""  # a hook runs, or something else that holds the domain's lock
    intent = intents.read("window", vm)
    if intent is None or intent.get("by") != virt.BY:
        return seconds < _FORGOTTEN, ""
    since = insync.seconds(intent.get("since", "")) or 0.0
    return _streams() or 0.0 <= time.time() - since < _SETTLING, ""


def _streams() -> bool:
    """Whether a domain's memory is streamed on this host, in or out."""
    for pid in filter(str.isdigit, os.listdir(paths.ROOT + "/proc")):
        try:
            with open(f"{paths.ROOT}/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
                if file.read().startswith(_STREAM):
                    return True
        except OSError:
            continue
    return False


def decide(
    vm: str,
    source: str,
    destination: str,
    at_source: "list[str] | None",
    at_destination: "list[str] | None",
    passed: bool,
    held: bool,
) -> "tuple[str, str]":
    """(CLOSE, LEAVE or GO_ON, a line for a person) for the window of a migration by libvirt that
    is over. Pure.

    ``at_…``: the states (xl's letters) of the VM's domains there, None when that host is
    silent. ``passed``: the destination's copy may have run; ``held``: the source's domain is
    paused by us. GO_ON: unpause, resume if it is suspended, then close; for the source.
    """
    if at_source and at_destination:
        return LEAVE, (
            f"{vm}: libvirt's migration ended with a domain on both hosts; if it runs well on {destination}: "
            f"`virsh destroy {vm}` on {source}, else `virsh destroy {vm}` on {destination}"
        )
    if not at_source:
        return CLOSE, ""
    suspended = any(state[3:5] == "ss" for state in at_source)
    if not suspended and not held:
        return CLOSE, ""
    if at_destination is None:
        return LEAVE, f"{vm}: handed over by a migration, and {destination}, where it may run, doesn't answer"
    if not passed:
        return GO_ON, f"{vm}: its migration failed before it could run on {destination}; it goes on here"
    return LEAVE, (
        f"{vm}: its migration failed at the very end, and it may have run on {destination} for a moment: "
        f"`virsh destroy {vm}` and `virsh start {vm}` on {source} go on from its disks as a reset would; "
        f"if it never ran there (`xenhelper log {vm}`): `xl unpause {vm}`"
    )


def close(
    intent: "dict[str, str]",
    here: "list[tuple[str, str]]",
    there: "list[tuple[str, str]] | None",
    resources: "list[str]",
    dry_run: bool,
) -> "list[str]":
    """Close the window of libvirt's migration, which is over, as far as it is safe. Returns what
    is left for a person. Precondition: the VM's lock is held, and neither libvirt is at work on it.
    """
    from xenhelper import window
    from xenhelper.peer import client

    vm, going = intent["vm"], virt.outgoing(intent["vm"]) is not None
    mine = [state for _, state in here]
    theirs = None if there is None else [state for _, state in there]
    passed = is_passed(vm, intent)
    action, line = decide(
        vm,
        intent.get("source", ""),
        intent.get("destination", ""),
        mine if going else theirs,
        theirs if going else mine,
        passed,
        going and hold.held(vm) is not None and any(state[2:3] == "p" for state in mine),
    )
    if action == LEAVE:
        return [line]
    if dry_run:
        return [line or f"{vm}: its window would be closed"]
    left = window.close_all(resources, 5.0)
    if going and action == GO_ON and not left:
        problem = go_on(vm)
        left += [problem] if problem else []
    if left:
        return left
    peer = intent.get("destination" if going else "source", "")
    if there is None and not mine and not going:
        return []  # it still has to hear what became of the guest
    if there is not None:
        over = not going and not mine
        verb, more = ("virt-over", {"ran": passed}) if over else ("window-end", {})
        try:
            client.ask(peer, verb, {"vm": vm, **more}, timeout=20.0)
        except (PeerFailed, PeerUnreachable) as error:
            return [f"{vm}: {peer} hasn't closed its side: {error}"]
    if going:
        hold.forget(vm)
    intents.remove("window", vm)
    log.event("reconciled", f"{vm}: window closed", log.NOTICE, vm=vm, intent=f"window-{vm}")
    return []


def go_on(vm: str) -> str:
    """Let the source's guest run again. Empty, or what a person must do."""
    from xenhelper.run import run

    hold.let_go(vm)
    handed.forget(vm)
    if any(domain.name == vm and domain.suspended for domain in domains.find(vm)):
        try:
            run([domains.real_xl(), "resume", vm], timeout=30)
        except CommandFailed:
            return (
                f"{vm}: suspended, and this Xen has no `xl resume` (4.20); `virsh destroy {vm}`, then "
                f"`virsh start {vm}`"
            )
    log.event("reconciled", f"{vm}: goes on here after a migration that failed", log.NOTICE, vm=vm)
    return ""


def is_passed(vm: str, intent: "dict[str, str]") -> bool:
    """Whether the copy at the destination may have run, as far as this host knows."""
    if virt.outgoing(vm) is not None:
        return handed.pending(vm)
    return intent.get(moving.PASSED) == "yes"
