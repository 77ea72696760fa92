"""`xenhelper guest-install VM`: put the guest's package into a VM that is off.

A guest's file system isn't to be trusted: it is mounted in a mount namespace of a process
of its own (guest_write.py), which takes the mount with it whatever ends it; nothing of the
guest's is run here, and no link of its is followed. The package is only left there, with a
unit that has the guest install it at its next boot. The write goes through DRBD, so both
copies have it.
"""

import os

from xenhelper import hotplug, intents, log, names, provision, steady, stepdown
from xenhelper.drbd import events, verbs
from xenhelper.errors import Busy, CommandFailed, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer.client import ask
from xenhelper.run import run as run_program
from xenhelper.tuning.guest_write import NOT_A_ROOT
from xenhelper.xen import domains

DEB = "/usr/share/xenhelper/xenhelper-guest.deb"
_OTHERWISE = f"install it from within the guest: copy {DEB} there, `apt install ./xenhelper-guest.deb`"


def run(vm: str, dry_run: bool = False) -> str:
    """What was (or would be) done. Raises Refused while the VM isn't off on both hosts or
    is being changed, XenhelperError when no disk of it is a root file system that we know."""
    records = provision.vm_records(names.check_vm(vm))
    if not records:
        raise XenhelperError(f"{vm}: not replicated on this host", _OTHERWISE)
    disks = sorted(records.values(), key=lambda record: record.get("vdev", ""))
    fd = intents.lock(vm, who="guest-install")
    try:
        _off(vm, disks[0]["peer"])
        if dry_run:
            shown = ", ".join(record["resource"] for record in disks)
            return f"{vm}: look for its root file system on {shown}, and leave the package there"
        reasons = []
        for record in disks:
            reason = _try(record)
            if not reason:
                log.event("note", f"{vm}: xenhelper-guest is on {record['vdev']}", vm=vm)
                return f"{vm}: the package is on {record['vdev']}; the guest installs it at its next boot"
            reasons.append(f"{record['vdev']}: {reason}")
    finally:
        os.close(fd)
    raise XenhelperError(f"{vm}: no root file system that is understood ({'; '.join(reasons)})", _OTHERWISE)


def _off(vm: str, peer: str) -> None:
    if any(intent.get("vm") == vm for intent in intents.all_open()):
        raise Busy(f"{vm}: a change of it isn't finished", "`xenhelper reconcile`, then try again")
    here = domains.find(vm)
    if here:
        raise Refused(f"{vm} runs here (as {here[0].name})", f"`xl shutdown -w {vm}` first")
    try:
        there = ask(peer, "runs", {"vm": vm}, timeout=15.0).get("domains")
    except (PeerFailed, PeerUnreachable) as error:
        raise Refused(
            f"whether {vm} runs on {peer} isn't known: {error}", "try again once it answers"
        ) from error
    if there:
        raise Refused(f"{vm} runs on {peer}", f"shut it down there; {_OTHERWISE}")


def _try(record: "dict[str, str]") -> str:
    """Promote, let guest_write work, step down as the block script does. '' when it is
    done, else why this disk isn't it. Raises XenhelperError."""
    name, peer = record["resource"], record["peer"]
    held = hotplug.lock(name, 5.0)
    try:
        state = events.one(name)
        if state is None:
            raise Refused(f"{name} isn't up", "`xenhelper resources-up` says why")
        if hotplug.decide(state, False, False, peer) != hotplug.PROMOTE or not state.in_sync:
            raise Refused(f"{name} isn't in sync with {peer}", "see `xenhelper status`")
        verbs.primary(state.minor)
        try:
            return _write(state.minor)
        finally:
            stepdown.step_down(name, peer, "", 20.0)
            steady.close(name, record.get("protocol", "A"))
    finally:
        os.close(held)


def _write(minor: int) -> str:
    argv = ["unshare", "--mount", "--propagation", "private", "--", "/usr/sbin/xenhelper", "guest-write"]
    try:
        result = run_program([*argv, f"/dev/drbd{minor}"], timeout=120, ok=(0, NOT_A_ROOT))
    except CommandFailed as error:
        last = [line for line in error.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise XenhelperError(f"the guest's file system can't be written: {last[-1]}", _OTHERWISE) from error
    return result.stdout.strip() or "it isn't known" if result.status else ""
