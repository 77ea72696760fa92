"""The window of a migration: protocol C and drained before it, closed after it.

Opening and closing are here, on the source, with the verbs by which the destination
takes part. The grant in between is handover.py's. An intent ``window-VM`` on both hosts
says that a window may be open; see intents.py for who may act on it.
"""

import os
import time
from collections.abc import Callable, Sequence

from xenhelper import handover, hotplug, intents, log, names, paths, statefile, steady, virt
from xenhelper.drbd import barrier, events, show, verbs
from xenhelper.errors import CommandFailed, PeerFailed, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer import client
from xenhelper.xen import domains

_DRAIN = 60.0  # seconds for one disk's A writes; libxl waits for nobody here


class Window:
    """A window of ``vm``'s ``resources`` (managed, of one peer), opened by this host.
    ``by``: empty for xl's migration, virt.BY for libvirt's."""

    def __init__(
        self, vm: str, resources: "list[str]", peer: str, host: str, uuid: str, by: str = ""
    ) -> None:
        self.vm = vm
        self.resources = resources
        self.peer = peer
        self.host = host
        self.uuid = uuid
        self.opened: "dict[str, show.Settings]" = {}  # by resource, what its window was opened with
        self.by = {"by": by} if by else {}

    def open(self) -> None:
        """Intent on both hosts, protocol C (two-primaries no) on all disks, drained.

        Raises Refused or XenhelperError, with everything put back.
        """
        begun = time.monotonic()
        intents.write(
            "window",
            self.vm,
            source=self.host,
            destination=self.peer,
            uuid=self.uuid,
            resources=",".join(self.resources),
            **self.by,
        )
        try:
            for name in self.resources:
                self._synchronous(name)
            client.ask(
                self.peer,
                "window-begin",
                {
                    "vm": self.vm,
                    "resources": self.resources,
                    "source": self.host,
                    "uuid": self.uuid,
                    **self.by,
                },
                timeout=30.0,
            )
        except BaseException:
            self.close()
            raise
        log.event(
            "window-open",
            f"{self.vm}: protocol C for a migration to {self.peer}",
            vm=self.vm,
            intent=f"window-{self.vm}",
            seconds=f"{time.monotonic() - begun:.2f}",
        )

    def _synchronous(self, name: str) -> None:
        settings = show.one(name)
        state = events.one(name)
        if settings is None or state is None or not state.in_sync:
            raise Refused(
                f"{name}: not Connected and UpToDate on both hosts ({state})", "see `xenhelper status`"
            )
        if state.replication in ("VerifyS", "VerifyT"):
            from xenhelper.verify import stop

            stop.make_way(name)
        if state.out_of_sync:
            raise Refused(
                f"{name}: {state.out_of_sync} bytes differ between both hosts, so {self.vm} would read "
                f"other data on {self.peer}",
                f"`xenhelper verify {self.vm} --repair --good {self.host}` copies what it reads here",
            )
        # also when it is C already: a permission that somebody left goes away here
        verbs.net_options(settings.local, settings.remote, "C", False)
        settings.protocol, settings.two_primaries = "C", False
        self.opened[name] = settings
        barrier.drain(name, state.minor, time.monotonic(), _DRAIN)

    def grant(self, resumed: "Callable[[], bool]") -> None:
        """The guest is suspended: hand its disks over, and tell the peer so.

        ``resumed`` looks whether it goes on here meanwhile; what was granted is taken
        back then. Raises XenhelperError.
        """
        for name in self.resources:
            handover.grant(name, resumed, opened=self.opened.get(name))
        if resumed():
            for name in self.resources:
                handover.take_back(name)
            raise Refused(f"{self.vm} goes on here, the migration was given up")
        try:
            client.ask(self.peer, "granted", {"resources": self.resources}, timeout=3.0)
        except (PeerUnreachable, PeerFailed) as error:
            # its `add` will ask then
            log.event(
                "note", f"{self.vm}: {self.peer} wasn't told of the grant: {error}", log.WARNING, vm=self.vm
            )

    def close(self, seconds: float = 20.0) -> "list[str]":
        """Steady protocol and two-primaries no again, intents removed.

        Returns what couldn't be closed, one line each; the intent stays then.
        """
        left = close_all(self.resources, seconds)
        if left:
            return left
        try:
            client.ask(self.peer, "window-end", {"vm": self.vm}, timeout=15.0)
        except (PeerUnreachable, PeerFailed) as error:
            log.event(
                "note", f"{self.vm}: {self.peer} closes its side later: {error}", log.WARNING, vm=self.vm
            )
        intents.remove("window", self.vm)
        return []


def close_all(resources: "Sequence[str]", seconds: float) -> "list[str]":
    """:func:`close_one` for all disks of a VM; those that aren't closed, one line each.

    What can be closed at once comes first: while the second Primary of one disk is waited for,
    the other host mustn't become Primary of another, whose guest may go on here.
    """
    left = [name for name in resources if close_one(name, 0.0)] if len(resources) > 1 else resources
    return [line for name in left if (line := close_one(name, seconds))]


def close_one(name: str, seconds: float) -> str:
    """Close one resource's window from this host; empty when closed, else why not.

    Waits ``seconds`` for a second Primary to step down: with two there is no closing.
    """
    record = statefile.read(f"{paths.RESOURCES}/{name}") or {}
    deadline = time.monotonic() + seconds
    while True:
        state = events.one(name)
        if state is None:
            return ""  # not up: nothing is open, and its file says no
        wanted = steady.protocol(record, state)
        if steady.closed(state, wanted):
            return ""
        settings = show.one(name)
        if settings is None:
            return ""
        if settings.protocol == wanted and not settings.two_primaries:
            return ""
        if not settings.remote:
            return ""  # StandAlone: the next connection takes the settings of the file
        both = state.role == events.PRIMARY and state.peer_role == events.PRIMARY
        if not both:
            try:
                # a grant that is under way comes first, so that none follows the closing
                held = hotplug.lock(f"grant-{name}", max(1.0, deadline - time.monotonic()))
                try:
                    steady.close(name, wanted)
                finally:
                    os.close(held)
                continue
            except (CommandFailed, Refused) as error:
                if time.monotonic() > deadline:
                    return f"{name}: {error}"
        elif time.monotonic() > deadline:
            return f"{name}: both hosts are still Primary"
        time.sleep(0.2)


def serve_begin(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``window-begin``: take the intent; answer once every disk shows C and no.

    From then on a permission that shows here can only be this migration's.
    """
    vm = names.check_vm(str(args["vm"]))
    resources = [names.check_resource(str(name)) for name in list(args["resources"])]  # type: ignore[call-overload]
    if not resources:
        raise Refused(f"{vm}: a window of no disk")
    deadline = time.monotonic() + 20.0
    for name in resources:
        record = statefile.read(f"{paths.RESOURCES}/{name}")
        if record is None or record.get("peer") != peer or record.get("vm") != vm:
            raise Refused(f"{name}: not a disk of {vm} shared with {peer}")
        handover.forget_grant(name)
        settings = show.one(name)
        while settings is None or settings.protocol != "C" or settings.two_primaries:
            if time.monotonic() > deadline:
                raise Refused(f"{name}: protocol C doesn't arrive", "see `xenhelper status`")
            time.sleep(0.05)
            settings = show.one(name)
    intents.write(
        "window",
        vm,
        source=peer,
        destination=os.uname().nodename,
        uuid=str(args["uuid"])[:36],
        resources=",".join(resources),
        **({"by": virt.BY} if args.get("by") == virt.BY else {}),
    )
    return {}


def serve_end(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``window-end``: the source has closed; look here too and drop the intent."""
    vm = names.check_vm(args["vm"])
    intent = intents.read("window", vm)
    if intent is None:
        return {}
    if peer not in (intent.get("source"), intent.get("destination")):
        raise Refused(f"{vm}: that migration isn't {peer}'s")
    for name in filter(None, intent.get("resources", "").split(",")):
        handover.forget_grant(names.check_resource(name))
        line = close_one(name, 5.0)
        if line:
            raise XenhelperError(line, "`xenhelper reconcile`")
    intents.remove("window", vm)
    if any(domain.name == vm and not domain.suspended for domain in domains.find(vm)):
        from xenhelper import autostart

        autostart.ran_here(vm)
    return {}
