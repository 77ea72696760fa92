"""Which alerts ought to be raised, from one look at this host. Pure.

What is wanted is derived from what is so now, never from events: a watcher that was
killed and starts again comes to the same, and what is on disk of the alerts tells what
is news. ``settles`` is how long something must last before it counts: connections and
disks pass through states that mean nothing.
"""

from collections.abc import Callable, Iterable, Mapping

from xenhelper import virt
from xenhelper.alerts.store import CRITICAL, ERROR, INFO, WARNING
from xenhelper.beneath import Finding
from xenhelper.config import Config
from xenhelper.drbd.proc import State
from xenhelper.watch import disks
from xenhelper.watch.world import LASTS, Wanted, World

# of these the watcher alone decides that they are over
KINDS = (
    "beneath",
    "connection",
    "disk",
    "handler",
    "missing",
    "out-of-sync",
    "resync",
    "split-brain",
    "stale",
    "takeover",
    "unreplicated",
    "window",
    "without-disk",
)
# kinds that need what xenstore says
FROM_XENSTORE = ("beneath", "unreplicated", "without-disk")
# seconds a migration may have both hosts Primary (about one), and may last
BOTH_PRIMARY = 60.0
MIGRATION = 3600.0
SOURCES = ("SyncSource", "PausedSyncS")
GONE = ("Diskless", "Failed")
# a change of these kinds takes resources up and down, connects and disconnects
_REBUILDING = ("replicate", "forget", "recover", "grow")


def wanted(world: World, config: Config | None, do_beneath: Callable[[Finding], str]) -> list[Wanted]:
    """Every alert that ought to be raised now. Without ``config`` only its own are left out."""
    rebuilding = {i.get("vm", "") for i in world.intents if i.get("kind") in _REBUILDING}
    found: list[Wanted] = []
    for name, record in world.records.items():
        vm = record.get("vm", name)
        state = world.state(name)
        if name in world.splits:
            found.append(_split(name, vm))
        # what is raised stays so meanwhile: the change may be what mends it
        found += (
            one
            for one in _resource(world, name, record, state)
            if vm not in rebuilding or (one.kind, one.key) in world.raised
        )
        if state is not None:
            found += _handler(world, name, vm, state)
        if config is not None:
            found += _stale(world, name, record, state, config.alerts.stale_minutes)
    for vm in sorted(world.taken_over | _alone_since_takeover(world)):
        found.append(
            Wanted(
                "takeover",
                vm,
                WARNING,
                f"{vm} was taken over: it may start here without its other host",
                "when the other host is back, both resync by themselves: `xenhelper status`",
                vm,
                settles=0.0,
            )
        )
    found += _windows(world)
    for finding in world.beneath:
        key = f"{finding.resource}.{finding.domid}"
        found.append(
            Wanted(
                "beneath",
                key,
                CRITICAL,
                finding.what(),
                "" if ("beneath", key) in world.raised else do_beneath(finding),
                finding.vm,
                finding.resource,
                0.0,
            )
        )
    if world.backends is not None:
        found += disks.missing(world, rebuilding)
        if config is not None:
            found += disks.unreplicated(world, config)
    return found


def _resource(world: World, name: str, record: Mapping[str, str], state: State | None) -> Iterable[Wanted]:
    vm, peer = record.get("vm", name), record.get("peer", "the other host")
    if state is None:
        yield Wanted(
            "missing",
            name,
            ERROR,
            f"{name}: its DRBD resource isn't up on this host",
            "`xenhelper resources-up`; it says why if it can't",
            vm,
            name,
            LASTS,
        )
        return
    if state.disk in GONE:
        yield Wanted(
            "disk",
            name,
            CRITICAL,
            f"{name}: the volume here has failed or is detached ({state.disk})",
            f"`xl migrate {vm} {peer}` if it runs here; then mend the volume, `drbdadm attach {name}`",
            vm,
            name,
        )
    if not state.talks:
        alone = state.connection == "StandAlone"
        how = "StandAlone: it won't connect by itself" if alone else state.connection
        yield Wanted(
            "connection",
            name,
            WARNING,
            f"{name}: no connection to {peer} ({how})",
            "`xenhelper reconcile` connects it, or tells why not"
            if alone
            else f"check {peer} and the replication link; it connects by itself",
            vm,
            name,
        )
    elif state.connection in SOURCES:
        yield Wanted(
            "resync",
            name,
            INFO,
            f"{name}: syncs from here to {peer}, {state.out_of_sync / 2**20:.0f} MiB to go",
            "nothing: it ends by itself",
            vm,
            name,
        )
    elif (
        state.connection == "Connected"
        and state.disk == state.peer_disk == "UpToDate"
        and state.out_of_sync
        and vm not in world.locked
        # `xenhelper verify` has told of it, unless this was told first
        and (("verify", name) not in world.raised or ("out-of-sync", name) in world.raised)
    ):
        yield Wanted(
            "out-of-sync",
            name,
            ERROR,
            f"{name}: {state.out_of_sync / 1024:.0f} KiB differ between the two copies"
            + world.verified.get(name, ""),
            f"`xenhelper verify {vm}` shows where; `xenhelper verify {vm} --repair --good HOST` mends it",
            vm,
            name,
            LASTS,
        )


def _split(name: str, vm: str) -> Wanted:
    return Wanted(
        "split-brain",
        name,
        CRITICAL,
        f"{name}: split brain: both hosts wrote to their own copy",
        f"`xenhelper status {vm}` tells both sides' story, `xenhelper recover {vm} --discard HOST` ends it",
        vm,
        name,
        0.0,
    )


def _handler(world: World, name: str, vm: str, state: State) -> Iterable[Wanted]:
    """What a handler of DRBD has raised stays until both copies are one again."""
    well = state.connection == "Connected" and state.disk == state.peer_disk == "UpToDate"
    if not well and ("handler", name) in world.raised:
        yield Wanted("handler", name, ERROR, "", "", vm, name, 0.0)


def _stale(
    world: World, name: str, record: Mapping[str, str], state: State | None, minutes: int
) -> Iterable[Wanted]:
    if state is not None and state.talks and state.disk == state.peer_disk == "UpToDate":
        return
    last = world.in_sync.get(name)
    if last is None or world.now - last < minutes * 60:
        return
    peer = record.get("peer", "the other host")
    yield Wanted(
        "stale",
        name,
        ERROR,
        f"{name}: the copies here and on {peer} were last the same over {minutes} minutes ago",
        f"bring {peer} or the replication link back: what is lost with one host grows",
        record.get("vm", name),
        name,
        0.0,
    )


def due(world: World, minutes: int) -> float:
    """Seconds since 1970 at which the next copy gets old; infinite when none does."""
    times = [
        last + minutes * 60
        for name, last in world.in_sync.items()
        if name in world.records and last + minutes * 60 > world.now
    ]
    return min(times, default=float("inf"))


def _windows(world: World) -> Iterable[Wanted]:
    windows = {i.get("vm", ""): float(i.get("age", 0)) for i in world.intents if i.get("kind") == "window"}
    # libvirt's has both Primary from the pre-copy on (docs/libvirt.md)
    long = {i.get("vm", "") for i in world.intents if i.get("kind") == "window" and i.get("by") == virt.BY}
    both = {}
    for name, record in world.records.items():
        state = world.state(name)
        if state is not None and state.role == state.peer_role == "Primary":
            both[record.get("vm", name)] = name
    for vm in sorted({*both, *windows}):
        if vm in both:
            yield Wanted(
                "window",
                vm,
                CRITICAL,
                f"{vm}: both hosts are Primary for longer than a migration needs",
                f"`xenhelper reconcile` on both hosts; `xl list` tells where {vm} runs",
                vm,
                settles=MIGRATION if vm in long else BOTH_PRIMARY if vm in windows else LASTS,
            )
        elif windows[vm] > MIGRATION:
            yield Wanted(
                "window",
                vm,
                WARNING,
                f"{vm}: its migration has been under way for over an hour",
                "`xenhelper status` shows it; protocol C is kept until it ends",
                vm,
            )


def _alone_since_takeover(world: World) -> set[str]:
    """VMs told to be taken over whose other host isn't back: once the VM has written here its
    permit is a survivor's (permits.keep_survivor), and the story is the same."""
    raised = {key for kind, key in world.raised if kind == "takeover"}
    return {
        record.get("vm", "")
        for name, record in world.records.items()
        if record.get("vm") in raised and not ((state := world.state(name)) and state.talks)
    }


def ended(world: World, kind: str, key: str) -> str:
    """How an alert that is wanted no more has ended, in a few words."""
    state = world.state(key) if key in world.records else None
    if kind in ("connection", "resync", "disk", "missing", "stale", "out-of-sync", "handler", "split-brain"):
        if key not in world.records:
            return "not replicated any more"
        if state is None:
            return ""
        if kind == "resync" and not state.talks:
            return "broken off: the connection is lost"
        if kind == "disk":
            return f"the volume here is {state.disk}"
        return f"{state.connection}, {state.disk}/{state.peer_disk}"
    return "the other host is back" if kind == "takeover" else ""
