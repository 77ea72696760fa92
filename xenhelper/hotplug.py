"""The block script: libxl's ``add`` for one disk (facts: libxl_device.c); ``remove`` is in letgo.py.

``add`` runs in a guest's downtime and holds up its creation: this module and what it
imports stay small. Who may promote is decided in :func:`decide`, from values only.
The whole stays far below libxl's 40 s, after which it would be killed half-way.
"""

import fcntl
import os
import sys
import time

from xenhelper import handed, log, names, paths, permits, statefile
from xenhelper.drbd import events, verbs
from xenhelper.errors import CommandFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore, XenstoreError

_BLKFLSBUF = 0x1261  # linux/fs.h
_BUDGET = 30.0  # seconds for a whole add or remove
# of it for stepping down first: DRBD may need 15 to notice a peer that has just died (stepdown.py)
_STEP_DOWN = 20.0
_HANDSHAKE = 10.0
# a connection that comes or goes at this moment
_PASSING = ("Connecting", "Unconnected", "WFReportParams", "NetworkFailure", "BrokenPipe")
_ONLINE = "see `xenhelper status`"
# who becomes the parent of a process whose own is dead (init, PR_SET_CHILD_SUBREAPER)
_MANAGERS = ("systemd", "init", "")

# what decide() answers
PROMOTE, HAND_OVER, CONSENT = "promote", "hand-over", "consent"


def decide(resource: events.Resource, incoming: bool, permit: bool, peer: str, command: str = "xl") -> str:
    """What an ``add`` must do for a resource in this state; design.md's rules for `add`.

    ``incoming``: the domain is the destination's half of a migration. ``permit``: this
    host was Primary when it lost its peer in this boot, or a takeover was ordered.
    ``command``: what migrates such a VM. Raises Refused.
    """
    name, there = resource.name, peer or "the other host"
    if resource.connected:
        if resource.disk != events.UP_TO_DATE:
            if resource.peer_disk == events.UP_TO_DATE:
                raise Refused(
                    f"{name}: this host's copy is {resource.disk}, {there} has the data",
                    f"start it on {there}, or wait for the resync ({_ONLINE})",
                )
            raise Refused(f"{name}: this host's copy is {resource.disk}", _ONLINE)
        if resource.peer_role == events.PRIMARY:
            if incoming:
                if not resource.in_sync:
                    raise Refused(f"{name}: {there}'s copy is {resource.peer_disk}", _ONLINE)
                return HAND_OVER
            raise Refused(f"{name} is in use on {there}", f"move it with `{command} migrate` on {there}")
        if resource.peer_role != events.SECONDARY:
            raise Refused(f"{name}: {there}'s role is {resource.peer_role}", _ONLINE)
        return PROMOTE
    if incoming:
        raise Refused(
            f"{name}: not connected to {there} ({resource.connection}), so a migration can't end here",
            _ONLINE,
        )
    if resource.disk not in (events.UP_TO_DATE, events.CONSISTENT):
        raise Refused(
            f"{name}: this host's copy is {resource.disk} and {there} is not connected",
            f"start it on {there}; if {there} is lost: `xenhelper takeover`",
        )
    if resource.disk == events.UP_TO_DATE and (permit or resource.peer_disk in events.OUTDATED_OR_WORSE):
        return PROMOTE
    return CONSENT


class Disk:
    """One call of the script: what xenstore says of the disk, and its resource's record.

    libvirt's domains have no script: their hook (virt/hook.py) makes its own of these."""

    # what starts such a domain, and what an administrator types to move it
    toolstack, command = "xl", "xl"
    # whether the guest may write at the source still when its disk is handed over to here
    live = False

    def __init__(self, store: Xenstore, base: str) -> None:
        parts = base.split("/")
        if len(parts) != 4 or parts[:2] != ["backend", "vbd"] or not (parts[2] + parts[3]).isdigit():
            raise XenhelperError(f"XENBUS_PATH {base[:80]!r} is no disk's backend")
        self.store = store
        self.base = base
        self.parent = os.getppid()
        self.begun = time.monotonic()
        self.domid = int(parts[2])
        self.resource = names.check_resource(store.read(base + "/params") or "")
        self.domain = "dom0" if self.domid == 0 else store.read(f"/local/domain/{self.domid}/name") or ""
        self.record = statefile.read(f"{paths.RESOURCES}/{self.resource}") or {}
        self.peer = self.record.get("peer", "")
        self.vm = self.record.get("vm", names.base_vm(self.domain))

    @property
    def seconds(self) -> str:
        """How long this call has taken so far, for the log."""
        return f"{time.monotonic() - self.begun:.2f}"

    @property
    def orphaned(self) -> bool:
        """Whether nobody waits for this any more: the xl that called is dead (perhaps before
        this began: then init or a manager of a session is the parent), or the disk's folder is
        gone. Its guest may have gone on elsewhere."""
        if os.getppid() != self.parent or self.parent == 1 or _command(self.parent) in _MANAGERS:
            return True
        return self.store.read(self.base + "/params") is None

    @property
    def incoming(self) -> bool:
        """Whether this is the destination of a migration."""
        return self.domain.endswith(names.INCOMING)

    @property
    def away(self) -> bool:
        """Whether this is what a migration that succeeded leaves at its source."""
        return self.domain.endswith(names.MIGRATED_AWAY)

    @property
    def read_only(self) -> bool:
        """Whether the guest may only read it."""
        return (self.store.read(self.base + "/mode") or "w").startswith("r")

    def await_grant(self, deadline: float) -> None:
        """Until the migration's source has handed the disk over. Raises Refused."""
        from xenhelper import handover

        handover.await_grant(self.resource, self.domain, self.domid, self.peer, deadline)

    def keys(self, path: str, rdev: int) -> "dict[str, str]":
        """What gives the device to the guest: blkback opens it once it is in xenstore."""
        keys = {
            "physical-device-path": path,
            "physical-device": f"{os.major(rdev):x}:{os.minor(rdev):x}",
            "hotplug-status": "connected",
        }
        read_ahead = self.record.get("read_ahead_kb", "")  # see tuning/publish.py
        if read_ahead:
            keys = {"read-ahead-kb": read_ahead, **keys}
        return keys

    def other_users(self) -> "list[str]":
        """Other domains of this host that have this resource as a disk."""
        return [
            name or str(domid)
            for domid, name in domains.users_of(self.store, self.resource)
            if domid != self.domid
        ]


def _command(pid: int) -> str:
    """A process's name; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def lock(resource: str, seconds: float) -> int:
    """The resource's lock among this host's block scripts. Raises Refused."""
    os.makedirs(paths.LOCKS, mode=0o700, exist_ok=True)
    fd = os.open(
        f"{paths.LOCKS}/res-{resource}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise Refused(f"{resource}: another block script is at work on it", "try again") from None
            time.sleep(0.05)


def add(disk: Disk) -> None:
    """Promote, test-open, publish. Raises XenhelperError; nothing is left Primary then."""
    deadline = time.monotonic() + _BUDGET
    if os.path.exists(paths.STOPPING):
        raise Refused(f"this host is shutting down, so {disk.domain} can't start here")
    held = lock(disk.resource, 10.0)
    try:
        resource = _up(disk)
        if resource.role == events.PRIMARY:
            users = disk.other_users()
            if users:
                raise Refused(
                    f"{disk.resource} is in use on this host by {', '.join(users)}", "stop that first"
                )
            # left by a `remove` that never ran; the other host may be Primary by now, too
            from xenhelper import stepdown

            left = deadline - 8.0 - time.monotonic()
            stepdown.step_down(disk.resource, disk.peer, _ran_here(disk), min(_STEP_DOWN, left))
            resource = _up(disk)
        resource = _promote(disk, resource, deadline)
        try:
            _publish(disk, resource.minor)
        except BaseException:
            verbs.secondary(resource.minor, 3.0, name=disk.resource)
            raise
    finally:
        os.close(held)
    _remember(disk)


def _ran_here(disk: Disk) -> str:
    """The VM, where it certainly was the one that ran on a disk which is Primary still: it
    last ran here, and this host, the only one that can, never handed it over. Else empty."""
    if disk.domain != disk.vm or handed.pending(disk.vm):
        return ""
    record = statefile.read(f"{paths.VMS}/{disk.vm}") or {}
    return disk.vm if record.get("last_ran") == disk.record.get("host", "?") else ""


def _look(name: str) -> "events.Resource | None":
    """The resource now; asked a second time where drbdsetup gave no answer: it waits while another
    call holds DRBD's global lock, for a dead link say, and a guest's reboot mustn't fail for that."""
    try:
        return events.one(name, 6.0)
    except CommandFailed as error:
        if error.status is not None:
            raise
        return events.one(name)


def _up(disk: Disk) -> events.Resource:
    resource = _look(disk.resource)
    if resource is None:
        if not disk.record:
            raise Refused(
                f"{disk.resource}: no such DRBD resource on this host",
                f"`drbdadm up {disk.resource}`, if it should be",
            )
        from xenhelper.drbd import bringup

        bringup.first_up(disk.vm, disk.resource)
        resource = events.one(disk.resource)
        if resource is None:
            raise XenhelperError(f"{disk.resource} didn't come up", f"`drbdadm up {disk.resource}` says why")
    if resource.minor < 0:
        raise Refused(f"{disk.resource}: it has no volume", f"`drbdadm adjust {disk.resource}`")
    return resource


def _promote(disk: Disk, resource: events.Resource, deadline: float) -> events.Resource:
    """Become Primary as decide() allows, and look again. Demotes and raises if it wasn't right."""
    if resource.connection in _PASSING or _shaking_hands(resource):
        resource = _settle(disk, resource, deadline - 8.0)
    permit = False
    if resource.connected:
        met(disk.resource)
    else:
        permit = permits.valid(disk.resource, resource.minor)
    if os.path.exists(f"{paths.STATE}/ceded/{disk.resource}"):
        from xenhelper import ceded

        ceded.take_back(disk.resource, disk.peer)
    if not resource.connected and os.path.exists(f"{paths.RUN}/hearsay/{disk.resource}"):
        resource.peer_disk = "DUnknown"  # what is known of it is an earlier boot's (bringup.first_up)
    how = decide(resource, disk.incoming, permit, disk.peer, disk.command)
    if how == HAND_OVER:
        disk.await_grant(deadline - 8.0)
    elif how == CONSENT:
        from xenhelper import fence

        fence.ask_consent(disk.resource, resource.minor, disk.peer, disk.vm)
    if (how == PROMOTE and resource.connected) or (how == HAND_OVER and not disk.live):
        # the look that was decided on will do where it shows that nothing is under way: DRBD
        # reads the counters after the roles (drbd_nl.c, notify_device_state). A hand-over has
        # waited since.
        _drained(disk.resource, deadline - 6.0, resource if how == PROMOTE else None)
    if disk.orphaned:
        raise Refused(f"{disk.resource}: the {disk.toolstack} that started {disk.domain} is gone")
    try:
        # with a peer it is agreed upon over the data socket, behind a resync's blocks
        verbs.primary(resource.minor, timeout=max(6.0, deadline - 6.0 - time.monotonic()))
    except CommandFailed as error:
        again = events.one(disk.resource) or resource
        decide(again, disk.incoming, False, disk.peer, disk.command)  # the plain reason, if there is one
        raise Refused(f"{disk.resource}: DRBD refuses to promote: {_reason(error)}", _ONLINE) from error
    after = events.one(disk.resource)
    if after is None or not _still_right(how, after) or disk.orphaned:
        verbs.secondary(resource.minor, 3.0, name=disk.resource)
        raise Refused(
            f"{disk.resource}: the connection to {disk.peer or 'the peer'} changed meanwhile", "try again"
        )
    return after


def met(resource: str) -> None:
    """The other host is there: a takeover's permit ends now. It names a generation, and that is
    the same still where nothing was written alone; the reconciler's next round may be too late."""
    if os.path.exists(permits.path(resource)):
        permits.revoke(resource)


def _still_right(how: str, after: events.Resource) -> bool:
    """The check after the promotion: what made it right must still hold."""
    if after.role != events.PRIMARY or after.disk != events.UP_TO_DATE:
        return False
    if how == HAND_OVER:
        return after.in_sync
    if after.connected:
        return after.peer_role == events.SECONDARY
    return after.peer_disk in events.OUTDATED_OR_WORSE


def _shaking_hands(resource: events.Resource) -> bool:
    """Connected and nothing known of each other yet; over a busy link that takes seconds."""
    return resource.connected and resource.peer_role == "Unknown"


def _settle(disk: Disk, resource: events.Resource, deadline: float) -> events.Resource:
    """A link that has just come up (boot, a blip) gets a moment to say so, and one that both
    ends are at gets the time that it takes."""
    begun = time.monotonic()
    while time.monotonic() < min(deadline, begun + (_HANDSHAKE if resource.connected else 2.0)):
        if resource.connected:
            if not _shaking_hands(resource):
                break
        elif resource.peer_disk in events.OUTDATED_OR_WORSE and resource.disk == events.UP_TO_DATE:
            break  # a known dead or outdated peer: nothing to wait for
        time.sleep(0.2)
        resource = events.one(disk.resource) or resource
    return resource


def _drained(name: str, deadline: float, resource: "events.Resource | None") -> None:
    """Everything that arrived from the peer is on this disk (the last A writes of a cold move).
    ``resource``: a look that was just taken, None to take one."""
    resource = resource or events.one(name)
    while resource is None or resource.lower_pending:
        if time.monotonic() > deadline:
            raise Refused(f"{name}: the last writes aren't on disk yet", "try again in a moment")
        time.sleep(0.05)
        resource = events.one(name)


def _publish(disk: Disk, minor: int) -> None:
    """Test-open (blkback's own failure would stay invisible), drop stale pages, tell Xen."""
    path = f"/dev/drbd{minor}"
    flags = os.O_RDONLY if disk.read_only else os.O_RDWR
    try:
        # O_EXCL: fails when something in dom0 (a mount, LVM, md) has claimed the device
        fd = os.open(path, flags | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == 16:
            raise Refused(
                f"{disk.resource}: {path} is in use in dom0 by {verbs.holder(minor)}", "let it go"
            ) from error
        raise XenhelperError(f"{disk.resource}: {path} can't be opened: {error.strerror}") from error
    try:
        rdev = os.fstat(fd).st_rdev
        drop_pages(disk.record.get("volume", ""))
        keys = disk.keys(path, rdev)
        if keys:
            disk.store.write_all({f"{disk.base}/{key}": value for key, value in keys.items()})
    finally:
        os.close(fd)


def drop_pages(path: str) -> None:
    """Forget dom0's cached pages of a volume beneath DRBD: a read past DRBD left them."""
    if not path:
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _BLKFLSBUF, 0)
        finally:
            os.close(fd)
    except OSError as error:
        log.event("note", f"{path}: its cached pages can't be dropped: {error}", log.WARNING)


def _remember(disk: Disk) -> None:
    """Autostart follows the VM: note where it ran last, and when its disk was given out."""
    log.event(
        "added",
        f"{disk.resource} is {disk.domain}'s disk now",
        vm=disk.vm,
        resource=disk.resource,
        seconds=disk.seconds,
    )
    if not disk.incoming:  # a migration may fail yet; autostart.ran_here notes one that didn't
        note(disk, last_ran=disk.record.get("host", ""), ran_at=now())
        handed.forget(disk.vm)
        statefile.remove(f"{paths.RUN}/refused/{disk.resource}")


def now() -> str:
    """This moment, in UTC, as it stands in records."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def note(disk: Disk, **changes: str) -> None:
    """Into the VM's record: a saved image older than this mustn't be restored (restore.py)."""
    path = f"{paths.VMS}/{disk.vm}"
    try:
        record = statefile.read(path)
        if record is not None and "" not in changes.values():
            statefile.write(path, {**record, **changes})
    except (OSError, XenhelperError) as error:
        log.event("note", f"{path}: {error}", log.WARNING, vm=disk.vm)


def _reason(error: CommandFailed) -> str:
    lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else error.what


def main(argv: "list[str]") -> int:
    """``block-xenhelper add|remove``. Returns the exit status; libxl reads nothing else."""
    command = argv[1] if len(argv) > 1 else ""
    base = os.environ.get("XENBUS_PATH", "")
    if command not in ("add", "remove") or not base:
        print("usage (by libxl): XENBUS_PATH=backend/vbd/D/N block-xenhelper add|remove", file=sys.stderr)
        return 2
    store, disk = None, None
    try:
        store = Xenstore()
        disk = Disk(store, base)
        if command == "add":
            add(disk)
        else:
            from xenhelper import letgo

            letgo.remove(disk)
        return 0
    except (XenhelperError, OSError) as error:
        _fail(store, base, command, error, disk)
        if command == "add" and disk is not None and not disk.incoming:
            _no_start(disk)
        return 3 if isinstance(error, (Refused, PeerUnreachable)) else 1
    finally:
        if store is not None:
            store.close()


def _no_start(disk: Disk) -> None:
    """For autostart: a start in which another disk was given out came to nothing."""
    try:
        statefile.write(f"{paths.RUN}/refused/{disk.resource}", {"vm": disk.vm, "domid": str(disk.domid)})
    except (OSError, XenhelperError) as error:
        log.event("note", f"{disk.resource}: {error}", log.WARNING, vm=disk.vm)


def _fail(store: "Xenstore | None", base: str, command: str, error: Exception, disk: "Disk | None") -> None:
    line = f"xenhelper: {error}"
    kind = "refused" if isinstance(error, Refused) else "failed"
    known = {"vm": disk.vm, "resource": disk.resource, "seconds": disk.seconds} if disk is not None else {}
    log.event(kind, f"{command} {base}: {error}", log.ERROR, **known)
    print(line, file=sys.stderr)
    if store is not None and command == "add":
        try:
            store.write_all({base + "/hotplug-error": line, base + "/hotplug-status": "error"})
        except XenstoreError:
            pass
