"""One host's side of a DRBD 8.4 resource, the other half of which is pair.py (facts: drbd_state.c,
drbd_receiver.c, drbd_nl.c of Linux 6.1 and 6.12).

What matters for a hand-over and for split brains is here: requests whose mode is fixed
when they are queued, a worker's queue before the socket, settings that travel on the data
stream past that queue, replies on the meta stream that overtake data, generation UUIDs,
the bitmap, fencing, the handshake and its refusals. What isn't: diskless operation,
activity log extents (all written blocks count as one), congestion policies.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.pair import Pair

PRIMARY, SECONDARY = "Primary", "Secondary"
INCONSISTENT, OUTDATED, DUNKNOWN, CONSISTENT, UPTODATE = range(4, 9)
DISKLESS = 0
DISK = {0: "Diskless", 4: "Inconsistent", 5: "Outdated", 6: "DUnknown", 7: "Consistent", 8: "UpToDate"}
STANDALONE, CONNECTING, CONNECTED = "StandAlone", "Connecting", "Connected"

SS = {
    -1: "Multiple primaries not allowed by config",
    -2: "Need access to UpToDate data",
    -6: "Refusing to be Outdated while Connected",
    -7: "Refusing to be Primary while peer is not outdated",
    -10: "State change was refused by peer node",
    -12: "Device is held open by someone",
    -16: "Disk state is lower than outdated",
    -19: "Concurrent state changes detected and aborted",
}


class Req:
    """A write of the application. ``mode`` is the protocol when it was queued."""

    __slots__ = (
        "acked",
        "block",
        "done",
        "end",
        "local",
        "mode",
        "on_done",
        "remote",
        "sent",
        "start",
        "version",
    )

    def __init__(
        self, end: "End", block: int, version: int, mode: str, on_done: "Callable[[str], None]"
    ) -> None:
        self.end = end
        self.block = block
        self.version = version
        self.mode = mode
        self.on_done = on_done
        self.start = end.loop.now
        self.local = False
        self.remote = bool(mode)
        self.sent = False
        self.acked = False
        self.done = False


class End:
    """One host's side of a resource: kernel state, metadata and the volume's blocks."""

    def __init__(self, pair: "Pair", host: Any, index: int) -> None:
        self.pair = pair
        self.host = host
        self.world = pair.world
        self.loop = pair.world.loop
        self.random = pair.world.random
        self.index = index
        self.peer: End = self
        # on the volumes
        self.data: "dict[int, int]" = {}
        self.uuid = [pair.first_uuid, 0, 0, 0]
        self.oos: "set[int]" = set()
        self.active: "set[int]" = set()
        self.md_consistent = True
        self.md_was_uptodate = True
        self.md_primary = False
        self.md_peer_outdated = False
        self.md_crashed = False
        self.forget()

    def forget(self) -> None:
        """Not configured: at boot, after down."""
        self.up = False
        self.role = SECONDARY
        self.disk = DISKLESS
        self.conn = STANDALONE
        self.peer_role = "Unknown"
        self.pdsk = DUNKNOWN
        self.sync = ""
        self.protocol = ""
        self.two = False
        self.crashed = False
        self.session = 0
        self.meetings = 0
        self.openers = 0
        self.upper = 0
        self.local_io = 0
        self.lower = 0
        self.last_disk = 0.0
        self.holds = 0
        self.held: "list[Req]" = []
        self.log: "list[Req]" = []
        self.inflight: "list[Req]" = []
        self.queue: "list[Req]" = []
        self.worker: "list[Any] | None" = None
        self.waiting: "list[Any]" = []
        self.request: "list[Any] | None" = None
        self.adm: Any = None
        self.fencing = False
        self.discard = False
        self.incarnation = getattr(self, "incarnation", 0) + 1

    # -- state -----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self.conn == CONNECTED

    def keep(self) -> None:
        """The metadata flags follow the state (__drbd_set_state)."""
        if self.disk == DISKLESS:
            return
        self.md_consistent = self.disk > INCONSISTENT
        self.md_was_uptodate = self.disk > OUTDATED
        self.md_primary = self.role == PRIMARY
        self.md_peer_outdated = INCONSISTENT <= self.pdsk <= OUTDATED
        self.md_crashed = self.crashed

    def new_current(self) -> None:
        """drbd_uuid_new_current: from here on the peer lacks what is written."""
        if self.uuid[1] == 0:
            self.uuid[1] = self.uuid[0]
        self.uuid[0] = self.pair.new_uuid()

    def attach(self) -> None:
        """drbdsetup attach: the disk state from the metadata."""
        if self.md_primary or self.md_crashed:
            self.crashed = True
            self.oos |= self.active  # the activity log
        if not self.md_consistent:
            self.disk = INCONSISTENT
        else:
            self.disk = CONSISTENT if self.md_was_uptodate else OUTDATED
        self.pdsk = OUTDATED if self.md_peer_outdated else DUNKNOWN
        if self.disk == CONSISTENT and self.pdsk == OUTDATED:
            self.disk = UPTODATE
        self.keep()

    def connect(self, protocol: str, two: bool) -> None:
        self.protocol, self.two = protocol, two
        self.conn = CONNECTING
        self.pair.look()

    # -- writes ----------------------------------------------------------------------

    def write(self, block: int, version: int, on_done: "Callable[[str], None]") -> None:
        """A write of the application on this Primary. ``on_done(mode)``: '' for alone."""
        req = Req(self, block, version, "", on_done)
        if self.holds:
            self.held.append(req)
            return
        self._submit(req)

    def _submit(self, req: Req) -> None:
        self.active.add(req.block)
        self.upper += 1
        self.local_io += 1
        req.start = self.loop.now
        if self.session and self.pdsk >= INCONSISTENT and self.pdsk != OUTDATED:
            req.mode = self.protocol
            req.remote = True
            self.log.append(req)
            self.queue.append(req)
            if self.worker is None:
                self.worker = self.loop.at(self._worker_delay(), self._send, self.incarnation)
        else:
            req.mode = ""
            req.remote = False
            self.oos.add(req.block)
        self.inflight.append(req)
        r = self.random.random()
        self.loop.at(0.0005 + r * r * 0.01 if r < 0.97 else 0.2, self._local, req, self.incarnation)

    def _local(self, req: Req, incarnation: int) -> None:
        if incarnation != self.incarnation:
            return
        self.data[req.block] = req.version
        self.world.promises.wrote(self, req.block, req.version)
        req.local = True
        self.local_io -= 1
        self._complete(req)

    def _worker_delay(self) -> float:
        r = self.random.random()
        if r > 0.93:
            return float(0.05 + self.random.random() * (1.0 if self.pair.link.slow else 0.2))
        return float(0.0003 + r * 0.003)

    def _send(self, incarnation: int) -> None:
        """The worker: the oldest unsent request goes into the socket, if it has room."""
        if incarnation != self.incarnation:
            return
        self.worker = None
        if not self.queue:
            return
        stream = self.pair.data[self.index]
        if len(stream.queue) < 12:
            req = self.queue.pop(0)
            req.sent = True
            late = stream.send(self.peer.receive, req, self.session)
            if req.mode == "A":
                self._complete(req)
            if late > 9.0:
                self.loop.at(0.1, self.lose, self.session, CONNECTING)
        if self.queue:
            self.worker = self.loop.at(self._worker_delay(), self._send, incarnation)

    def receive(self, req: Req, session: int) -> None:
        """A write arrives from the peer."""
        if session != self.session:
            return
        self.lower += 1
        r = self.random.random()
        delay = 0.0005 + r * 0.01 if r < 0.95 else 0.1 + self.random.random() * 0.8
        if self.host.slow_disk:
            delay += self.random.random() * 2.5
        self.last_disk = when = max(self.last_disk + 1e-6, self.loop.now + delay)
        self.loop.at(when - self.loop.now, self._received, req, session, self.incarnation)

    def _received(self, req: Req, session: int, incarnation: int) -> None:
        if incarnation != self.incarnation:
            return
        self.data[req.block] = req.version
        self.world.promises.wrote(self, req.block, req.version)
        self.lower -= 1
        if session == self.session:
            self.pair.meta[self.index].send(self.peer.acknowledged, req, session)

    def acknowledged(self, req: Req, session: int) -> None:
        """The peer has it on disk (write ack at C, barrier ack at A)."""
        if session != self.session:
            return
        req.acked = True
        if req in self.log:
            self.log.remove(req)
        self._complete(req)

    def _complete(self, req: Req) -> None:
        if req.done or not req.local:
            return
        if req.remote and not (req.sent if req.mode == "A" else req.acked):
            return
        req.done = True
        self.upper -= 1
        self.inflight.remove(req)
        mode = req.mode if req.remote or req.acked else ""
        req.on_done(mode)
        if not self.upper:
            waiting, self.waiting = self.waiting, []
            for process, token in waiting:
                process.wake(token, "quiet")

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1
        if not self.holds:
            held, self.held = self.held, []
            for req in held:
                self._submit(req)

    # -- losing the peer -------------------------------------------------------------

    def lose(self, session: int, to: str, pdsk: int = DUNKNOWN) -> None:
        """This side's connection of that session ends; ``pdsk`` is what is known of the
        peer's disk after a goodbye."""
        if session != self.session or not session:
            return
        self.session = 0
        self.sync = ""
        lost, self.log, self.queue = self.log, [], []
        for req in lost:
            self.oos.add(req.block)
            req.remote = False
        before = self.pdsk
        self.conn = to
        self.peer_role = "Unknown"
        if self.pdsk > DUNKNOWN or self.pdsk < INCONSISTENT:
            self.pdsk = pdsk
        if to == STANDALONE:
            self.protocol, self.two = "", False
        gone = (
            before >= INCONSISTENT
            and before not in (DUNKNOWN, OUTDATED)
            and self.pdsk in (DUNKNOWN, OUTDATED)
        )
        if gone and self.role == PRIMARY and self.uuid[1] == 0 and self.disk == UPTODATE:
            self.new_current()
        self.keep()
        for req in list(lost):
            self._complete(req)
        if self.request is not None:
            self.request[0].wake(self.request[1], "lost")
            self.request = None
        self.world.trace(
            self.host, f"drbd {self.pair.name}: lost its peer ({to}), {self.role} {DISK[self.disk]}"
        )
        if self.pair.link.up and self.peer.session == session:
            self.loop.at(0.001 + self.random.random() * 0.3, self.peer.lose, session, CONNECTING)
        if self.role == PRIMARY and self.pdsk >= DUNKNOWN and not self.fencing:
            self.fencing = True
            self.world.fence_peer(self, self._fenced_async)
        self.pair.look()

    def _fenced_async(self, status: int, meetings: int, incarnation: int) -> None:
        if incarnation == self.incarnation:
            self.fencing = False
            self.fenced(status, meetings)

    def fenced(self, status: int, meetings: int) -> bool:
        """conn_try_outdate_peer: what the handler's exit status does."""
        if self.conn == CONNECTED or meetings != self.meetings:
            return self.pdsk <= OUTDATED
        if status == 3:
            self.pdsk = INCONSISTENT
        elif status in (4, 7) or (status == 5 and self.disk == UPTODATE):
            self.pdsk = OUTDATED
        elif status == 6 and self.role == SECONDARY:
            self.disk = OUTDATED
        self.keep()
        return self.pdsk <= OUTDATED

    def power_cut(self) -> None:
        """The host dies: what was on its way to the disk may be there or not."""
        if self.up:
            for req in self.inflight:
                if not req.local and self.random.random() < 0.5:
                    self.data[req.block] = req.version
                    self.world.promises.wrote(self, req.block, req.version)
        self.pair.data[self.index].drop()
        self.pair.meta[self.index].drop()
        session = self.session
        self.forget()
        if session and self.peer.session == session:
            self.pair.notice(self.peer)

    # -- the promotion's question ----------------------------------------------------

    def valid_primary(self) -> int:
        """is_valid_state for role Primary here; 1 when it holds."""
        if not self.two and self.protocol and self.peer_role == PRIMARY:
            return -1
        if not self.connected and self.disk < UPTODATE:
            return -2
        if not self.connected and self.pdsk >= DUNKNOWN:
            return -7
        if self.disk <= INCONSISTENT and self.pdsk <= INCONSISTENT:
            return -2
        return 1

    def asked(self, session: int) -> None:
        """P_STATE_CHG_REQ: the peer wants to be Primary. The reply goes by the meta stream."""
        if session != self.session:
            return
        if self.index == 0 and self.request is not None:
            verdict = -19
        elif self.role == PRIMARY and not self.two:
            verdict = -1
        else:
            verdict = 1
            self.peer_role = PRIMARY
        self.pair.meta[self.index].send(self.peer.answered, verdict, session)

    def answered(self, verdict: int, session: int) -> None:
        if session != self.session or self.request is None:
            return
        process, token = self.request
        self.request = None
        process.wake(token, verdict)

    def tell(self) -> None:
        """P_STATE: role and disk go to the peer behind the data."""
        if self.session:
            self.pair.data[self.index].send(self.peer.told, self.role, self.disk, self.sync, self.session)

    def told(self, role: str, disk: int, sync: str, session: int) -> None:
        if session == self.session:
            self.peer_role = role
            # of a resync that is over here, whose end overtook this (receive_state()): ignored
            late = self.pdsk == UPTODATE and disk == INCONSISTENT and sync == "SyncTarget"
            if disk >= INCONSISTENT and not self.sync and not late:
                self.pdsk = disk

    def options(self, protocol: str, two: bool, session: int) -> None:
        """P_PROTOCOL_UPDATE arrives: adopted unchecked."""
        if session == self.session:
            self.protocol, self.two = protocol, two
