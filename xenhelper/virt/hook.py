"""libvirt's hook for Xen's domains (``/etc/libvirt/hooks/libxl.d/xenhelper``): for a domain of
libvirt what the block script is for one of xl, by the same decisions and the same code.

``start``, before the domain is made, promotes; ``release``, after it is gone, demotes.
Both surround every start, in-guest reboots and restores too; a ``start`` that fails keeps
the domain from being made, and ``release`` follows it (libxl_domain.c). ``started`` of an
incoming migration is the last word before the guest runs here: see virt/moving.py.

libvirt holds the domain's lock meanwhile, so nothing here may ask libvirt anything; and
Debian's AppArmor profile of libvirtd doesn't let its hooks run xl.
"""

import os
import sys
import time

from xenhelper import hotplug, intents, log, names, paths, statefile, virt
from xenhelper.drbd import events, show, verbs
from xenhelper.errors import EXIT_REFUSED, Refused, XenhelperError
from xenhelper.virt import devices
from xenhelper.xen.xenstore import Xenstore

TYPE_CHECKING = False  # importing typing costs the hook
if TYPE_CHECKING:
    from xenhelper.virt.definition import Definition

# seconds: a reconciler's round, or a set-up from the other host, may have the VM's lock
_LOCK = 25.0
# seconds after boot in which libvirt starts what is marked for autostart
_BOOTING = 600.0
_ACTS = ("migrate", "start", "started", "release")


class Disk(hotplug.Disk):
    """A disk of a domain of libvirt. It has no folder in xenstore yet, or no more: the device
    is given to the guest by libxl's own block script, which finds it Primary."""

    toolstack, command = "libvirt", "virsh"
    live = True

    def __init__(
        self, store: Xenstore, vm: str, record: "dict[str, str]", read_only: bool, incoming: bool
    ) -> None:
        self.store = store
        self.base = ""
        self.parent = os.getppid()
        self.begun = time.monotonic()
        self.domid = -1
        self.resource = record["resource"]
        self.domain = vm
        self.record = record
        self.peer = record.get("peer", "")
        self.vm = vm
        self._read_only = read_only
        self._incoming = incoming
        self._away = virt.outgoing(vm) is not None and statefile.read(f"{paths.RUN}/handed/{vm}") is not None

    @property
    def orphaned(self) -> bool:
        """Whether the libvirt that called is dead."""
        return os.getppid() != self.parent

    @property
    def incoming(self) -> bool:
        """Whether this call is a migration's to here. That a window is open isn't enough for a
        start: it may be one that was left, and the guest runs at its source."""
        return self._incoming

    @property
    def away(self) -> bool:
        """Whether it was handed over to the other host by a migration."""
        return self._away

    @property
    def read_only(self) -> bool:
        """Whether the guest may only read it."""
        return self._read_only

    def keys(self, path: str, rdev: int) -> "dict[str, str]":
        """Nothing to tell: the definition names the device."""
        return {}

    def await_grant(self, deadline: float) -> None:
        """The source permitted it before this host heard of the window (virt/moving.py), behind
        all that was written at protocol A: until that has arrived. Raises Refused."""
        while True:
            settings = show.one(self.resource)
            if settings is not None and settings.two_primaries and settings.protocol == "C":
                return
            state = events.one(self.resource)
            if state is None or not state.connected:
                raise Refused(f"{self.resource}: the link to {self.peer} was lost", "see `xenhelper status`")
            if time.monotonic() > deadline:
                raise Refused(f"{self.resource}: {self.peer}'s permission didn't arrive in time")
            time.sleep(0.05)


class Call:
    """One call of the hook, for a domain that has disks of ours."""

    def __init__(
        self,
        vm: str,
        uuid: str,
        records: "dict[str, dict[str, str]]",
        read_only: "set[str]",
        others: "tuple[str, ...]" = (),
    ) -> None:
        self.vm = vm
        self.uuid = uuid
        self.records = records
        self.read_only = read_only
        # writable disks that aren't ours
        self.others = others

    @property
    def peer(self) -> str:
        """The other host of its disks. Raises Refused when they have several."""
        peers = {record.get("peer", "") for record in self.records.values()}
        if len(peers) != 1:
            raise Refused(f"{self.vm}: its disks are on different hosts ({', '.join(sorted(peers))})")
        return peers.pop()

    def disks(self, store: Xenstore, incoming: bool) -> "list[Disk]":
        """As hotplug.py takes them; ``incoming``: this call is a migration's to here."""
        return [
            Disk(store, self.vm, record, name in self.read_only, incoming)
            for name, record in self.records.items()
        ]


def look(name: str, found: "Definition", known: "dict[str, dict[str, str]]") -> "Call | None":
    """What this call is about; None for a domain that has nothing to do with us.

    Raises Refused when it would write beneath DRBD, or on another VM's disk.
    """
    mine: "dict[str, dict[str, str]]" = {}
    read_only = set()
    others = []
    for disk in found.disks:
        if not disk.path:
            continue
        resource = devices.resource_at(disk.path, known, devices.device_number)
        if not resource:
            under = devices.beneath_at(disk.path, known, devices.device_number)
            if under:
                raise Refused(
                    f"{name}: disk {disk.vdev} ({disk.path}) is beneath DRBD resource {under}: what is "
                    "written there is on no replica",
                    f"`xenhelper replicate --libvirt {known[under]['vm']}`, or take the disk out",
                )
            if disk.writable and disk.device != "cdrom":
                others.append(disk.path)
            continue
        owner = known[resource]["vm"]
        if owner != name:
            raise Refused(f"{name}: disk {disk.vdev} ({disk.path}) is {resource} of VM {owner}")
        if disk.driver not in ("", "phy"):
            raise Refused(
                f"{name}: disk {disk.vdev} ({disk.path}) has driver {disk.driver!r}",
                "only 'phy', or none, reaches a DRBD device past every cache: `virsh edit`",
            )
        mine[resource] = known[resource]
        if not disk.writable:
            read_only.add(resource)
    return Call(name, found.uuid, mine, read_only, tuple(others)) if mine else None


def start(call: Call, store: Xenstore) -> None:
    """Promote all disks, or none. Raises XenhelperError."""
    from xenhelper.virt import moving, saved

    # not locked yet: a source that dies now is waited for, and the reconciler mustn't wait with it
    moves = moving.open_if_announced(call)
    fd = intents.lock(call.vm, wait=_LOCK, who="libvirt's start")
    try:
        if not moves:
            saved.check(call.vm, call.uuid, next(iter(call.records.values())).get("peer", ""))
        disks = call.disks(store, moves)
        added: "list[Disk]" = []
        try:
            for disk in disks:
                added.append(disk)
                hotplug.add(disk)
        except BaseException:
            for disk in added:
                _step_back(disk)
            raise
        if not moves and virt.incoming(call.vm) is not None:
            intents.remove("window", call.vm)  # left by a migration to here; its source has let go
    finally:
        os.close(fd)


def _step_back(disk: Disk) -> None:
    """Another disk was refused: this one isn't given out either. Best effort: ``release`` and
    the reconciler look again."""
    try:
        state = events.one(disk.resource)
        if state is not None and state.role == events.PRIMARY and not disk.other_users():
            verbs.secondary(state.minor, 3.0)
        hotplug._no_start(disk)
    except XenhelperError as error:
        log.event("note", f"{disk.resource}: {error}", log.WARNING, vm=disk.vm)


def release(call: Call, store: Xenstore) -> None:
    """Demote all disks, as far as nothing uses them, and close what a migration left open."""
    from xenhelper.virt import moving

    fd = intents.lock(call.vm, wait=_LOCK, who="libvirt's stop")
    try:
        first: "XenhelperError | None" = None
        for disk in call.disks(store, virt.incoming(call.vm) is not None):
            try:
                _remove(disk)
            except XenhelperError as error:
                first = first or error
        if first is not None:
            raise first
        moving.ended(call)
    finally:
        os.close(fd)


def _remove(disk: Disk) -> None:
    state = events.one(disk.resource)
    # after a refused start there is nothing to give back, and a window that may be open is
    # that of the domain on the other host
    if state is not None and state.role == events.PRIMARY:
        from xenhelper import letgo  # a start needn't load it

        letgo.remove(disk)


def run(name: str, operation: str, text: str) -> None:
    """One call. Raises XenhelperError when the domain mustn't start or go on."""
    if operation not in _ACTS or name in ("-", "Domain-0"):
        return
    if operation == "started" and (not names.valid_vm(name) or virt.incoming(name) is None):
        return  # it runs already: no trouble of ours may be its end
    known = devices.records()
    if not known:
        return
    if operation == "migrate" and not text.strip():
        # 9.0.0 and 11.3.0 ask their formatter for a migratable XML, which is no such thing's to
        # give, and call the hook with nothing (libxlDomainMigrationPrepareAny, libxlDomainHookRun)
        if names.valid_vm(name) and virt.runs_by(name):
            from xenhelper.virt import moving

            moving.announce(name)
        return
    from xenhelper.virt import definition

    try:
        found = definition.parse(text)
    except XenhelperError as error:
        if "drbd" not in text and not any(record.get("volume", "?") in text for record in known.values()):
            return
        raise Refused(f"{name[:90]}: {error}") from error
    if found.name != name:
        raise Refused(f"{name[:90]}: its XML is of {found.name[:90]}")
    call = look(name, found, known)
    if call is None:
        return
    names.check_vm(name)
    from xenhelper.virt import moving

    if operation == "migrate":
        moving.announce(call.vm, call.uuid)
        return
    with Xenstore() as store:
        if operation == "start":
            start(call, store)
        elif operation == "started":
            moving.started(call)
        elif operation == "release":
            release(call, store)


def _want_at_boot(vm: str) -> None:
    """libvirt's autostart was refused here at boot: the reconciler starts it where it belongs,
    once the other host has spoken (autostart.py)."""
    link = f"{paths.ROOT}/etc/libvirt/libxl/autostart/{vm}.xml"
    if time.clock_gettime(time.CLOCK_BOOTTIME) > _BOOTING or not os.path.lexists(link):
        return
    from xenhelper import autostart

    try:
        if virt.runs_by(vm):
            autostart.want(vm, virt.config_of(vm))
    except XenhelperError as error:
        log.event("note", f"{vm}: {error}", log.WARNING, vm=vm)


def called(name: str, operation: str, text: str) -> int:
    """One call; the exit status, which libvirt minds but for ``release``."""
    try:
        run(name, operation, text)
        return 0
    except (XenhelperError, OSError) as error:
        refused = isinstance(error, Refused)
        shown = name if names.valid_vm(name) else ""
        kind = "refused" if refused else "failed"
        log.event(kind, f"libvirt {operation} {name[:90]}: {error}", log.ERROR, vm=shown)
        print(f"xenhelper: {error}", file=sys.stderr)
        if operation == "start" and shown:
            _want_at_boot(shown)
        # the domain is gone, or expected: a failure doesn't keep that from happening
        return 0 if operation in ("release", "migrate") else EXIT_REFUSED if refused else 1


def main(argv: "list[str]") -> int:
    """``NAME OPERATION SUB-OPERATION EXTRA``, the XML on standard input. Nothing is printed on
    standard output: what a hook prints there on ``migrate`` would be taken for another XML."""
    if len(argv) < 3:
        print("usage (by libvirt): xenhelper NAME OPERATION SUB-OPERATION EXTRA <XML", file=sys.stderr)
        return 2
    if argv[2] not in _ACTS:
        return 0
    from xenhelper.virt.definition import MAX_BYTES

    return called(argv[1], argv[2], sys.stdin.buffer.read(MAX_BYTES + 1).decode("utf-8", "replace"))
