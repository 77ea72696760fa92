"""A DRBD resource: two ends (end.py) and what is between them, meeting, handshake and resync."""

from typing import Any

from tests.sim import bells
from tests.sim.end import (
    CONNECTED,
    CONNECTING,
    CONSISTENT,
    DISKLESS,
    INCONSISTENT,
    OUTDATED,
    PRIMARY,
    STANDALONE,
    UPTODATE,
    End,
)
from tests.sim.net import Stream


class Pair:
    """A resource: two ends and what is between them."""

    def __init__(self, world: Any, name: str, minor: int, port: int, hosts: "list[Any]", blocks: int) -> None:
        self.world = world
        self.name = name
        self.minor = minor
        self.port = port
        self.link = world.link
        self.uuids = 0x1000
        self.first_uuid = self.new_uuid()
        self.blocks = blocks
        self.session = 0
        self.pending: "list[Any] | None" = None
        self.ends = [End(self, hosts[0], 0), End(self, hosts[1], 1)]
        self.ends[0].peer, self.ends[1].peer = self.ends[1], self.ends[0]
        for end in self.ends:
            end.data = dict.fromkeys(range(blocks), 0)
        self.data = [Stream(self.link, False), Stream(self.link, False)]
        self.meta = [Stream(self.link, True), Stream(self.link, True)]
        self.link.on_cut.append(self._cut)
        self.link.on_heal.append(self._heal)

    def new_uuid(self) -> int:
        self.uuids += 0x10
        return self.uuids << 16

    def _cut(self) -> None:
        for end in self.ends:
            if end.session:
                self.notice(end)

    def notice(self, end: End) -> None:
        """The ping time-out: each side finds out for itself."""
        seconds = 0.3 + self.world.random.random() * 9.0
        self.world.loop.at(seconds, self._timeout, end, end.session, self.link.cuts)

    def _timeout(self, end: End, session: int, cuts: int) -> None:
        if end.session == session and (
            (not self.link.up and self.link.cuts == cuts) or end.peer.session != session
        ):
            end.lose(session, CONNECTING)

    def _heal(self) -> None:
        for end in self.ends:
            if end.session and end.peer.session != end.session:
                self.world.loop.at(self.world.random.random(), end.lose, end.session, CONNECTING)
        self.look()

    def look(self) -> None:
        """Both sides want to meet and can."""
        if self.pending is None and self.link.up and all(end.conn == CONNECTING for end in self.ends):
            self.pending = self.world.loop.at(0.05 + self.world.random.random() ** 2 * 4, self._meet)

    def _meet(self) -> None:
        self.pending = None
        one, two = self.ends
        if not (self.link.up and one.conn == two.conn == CONNECTING):
            return
        random = self.world.random
        if (one.protocol, one.two) != (two.protocol, two.two):
            # the side that reads the other's P_PROTOCOL first hangs up
            which = random.choice(((one,), (two,), (one, two)))
            for end in which:
                self._refuse(end, "incompatible settings")
            return
        for stream in (*self.data, *self.meta):
            stream.drop()
        verdict, why = self.handshake()
        if verdict is None:
            return
        self.session += 1
        for end in self.ends:
            end.session = self.session
            end.meetings += 1
            end.conn = CONNECTED
            end.discard = False
            end.peer_role = end.peer.role
        self.world.trace(one.host, f"drbd {self.name}: connected ({verdict}, {why})")
        for end in self.ends:
            bells.connected(end)
        if verdict == 0:
            for end in self.ends:
                end.crashed = False
                if end.disk in (CONSISTENT, OUTDATED):
                    end.disk = UPTODATE
            one.pdsk, two.pdsk = two.disk, one.disk
            one.keep()
            two.keep()
            return
        source, target = (one, two) if verdict > 0 else (two, one)
        self._resync(source, target, full=abs(verdict) >= 2)

    def _refuse(self, end: End, why: str) -> None:
        end.conn = STANDALONE
        end.protocol, end.two = "", False
        self.world.trace(end.host, f"drbd {self.name}: StandAlone, {why}")

    def handshake(self) -> "tuple[int | None, str]":
        """(verdict, rule): 0 connected, >0 end 0 is the source, <0 the target; None: refused."""
        one, two = self.ends
        verdict, rule = compare(one, two)
        if verdict == -1000:
            self._refuse(one, "unrelated data")
            self._refuse(two, "unrelated data")
            return None, rule
        if (one.disk == INCONSISTENT) != (two.disk == INCONSISTENT):
            full = verdict == -100 or abs(verdict) == 2
            verdict = (2 if full else 1) * (1 if one.disk > INCONSISTENT else -1)
        if abs(verdict) == 100:
            solved = self._split_brain(one, two) if verdict == 100 else 0
            if not solved and one.discard != two.discard:
                solved = -1 if one.discard else 1
            if not solved:
                self.world.promises.split_brain(self)
                for end in self.ends:
                    bells.split_brain(end)
                    self._refuse(end, "split brain")
                return None, rule
            verdict = solved
        if one.role == two.role == PRIMARY and not one.two:
            self._refuse(self.world.random.choice(self.ends), "two primaries")
            return None, rule
        if verdict:
            source, target = (one, two) if verdict > 0 else (two, one)
            if source.disk <= INCONSISTENT:
                self._refuse(source, "shall be source, but inconsistent")
                return None, rule
            if target.role == PRIMARY and target.disk >= CONSISTENT:
                self._refuse(target, "shall be target, but is Primary")
                return None, rule
        return verdict, rule

    def would_split(self) -> bool:
        """Whether both sides are apart, and would find a split brain if they met now."""
        one, two = self.ends
        if one.connected or two.connected or DISKLESS in (one.disk, two.disk):
            return False
        before = (one.uuid[:], two.uuid[:])
        verdict, _ = compare(one, two)
        one.uuid[:], two.uuid[:] = before
        return verdict == -100 or (verdict == 100 and not self._split_brain(one, two))

    def _split_brain(self, one: End, two: End) -> int:
        """after-sb-0pri discard-zero-changes, 1pri consensus, 2pri disconnect."""
        count = (one.role == PRIMARY) + (two.role == PRIMARY)
        if count == 2:
            return 0
        mine, theirs = len(one.oos), len(two.oos)
        if mine == theirs == 0:
            verdict = -1
        elif theirs == 0:
            verdict = 1
        elif mine == 0:
            verdict = -1
        else:
            return 0
        if count == 1:
            loser = two if verdict > 0 else one
            if loser.role == PRIMARY:
                return 0
        return verdict

    def _resync(self, source: End, target: End, full: bool) -> None:
        self.world.promises.resync(self, source, target)
        todo = source.oos | target.oos
        if full:
            todo |= set(range(self.blocks))
        source.oos, target.oos = set(todo), set(todo)
        source.disk, source.pdsk = UPTODATE, INCONSISTENT
        target.disk, target.pdsk = INCONSISTENT, UPTODATE
        source.sync, target.sync = "SyncSource", "SyncTarget"
        # the sync UUID: the target is of no generation of its own until it is through
        base = self.new_uuid()
        if source.uuid[1]:
            source.uuid[2:4] = [source.uuid[1], source.uuid[2]]
        source.uuid[1] = base
        target.uuid[0], target.uuid[1] = base, 0
        source.keep()
        target.keep()
        self.world.loop.at(0.05 + self.world.random.random() * 0.3, self._resync_step, self.session)

    def _resync_step(self, session: int) -> None:
        source = next((end for end in self.ends if end.sync == "SyncSource"), None)
        if source is None or source.session != session:
            return
        stream = self.data[source.index]
        # a block that the application is writing waits (drbd_rs_begin_io)
        busy = {req.block for req in source.inflight if not req.local}
        left = sorted(source.oos - busy)[:4]
        if source.oos:
            for block in left:
                source.oos.discard(block)
                stream.send(self._resync_write, source.peer, block, source.data[block], session)
            self.world.loop.at(0.02 + self.world.random.random() * 0.3, self._resync_step, session)
        else:
            stream.send(self._resync_done, source.peer, session)

    def _resync_write(self, target: End, block: int, version: int, session: int) -> None:
        if target.session == session:
            # behind the writes that came before it
            target.last_disk = max(target.last_disk + 1e-6, self.world.loop.now + 0.001)
            wait = target.last_disk - self.world.loop.now
            self.world.loop.at(
                wait, self._resync_on_disk, target, block, version, session, target.incarnation
            )
        else:
            target.peer.oos.add(block)

    def _resync_on_disk(self, target: End, block: int, version: int, session: int, incarnation: int) -> None:
        if target.incarnation == incarnation:
            target.data[block] = version
            target.oos.discard(block)

    def _resync_done(self, target: End, session: int) -> None:
        if target.session != session or target.sync != "SyncTarget":
            return
        if target.oos:
            self.world.loop.at(0.01, self._resync_done, target, session)
            return
        source = target.peer
        target.uuid = [source.uuid[0], 0, source.uuid[1], source.uuid[2]]
        target.sync = ""
        target.disk = UPTODATE
        target.crashed = False
        target.keep()
        self.meta[target.index].send(self._resync_told, source, session)

    def _resync_told(self, source: End, session: int) -> None:
        if source.session != session:
            return
        source.uuid[1:4] = [0, source.uuid[1], source.uuid[2]]
        source.sync = ""
        source.pdsk = UPTODATE
        source.crashed = False
        source.keep()


def compare(one: End, two: End) -> "tuple[int, str]":
    """drbd_uuid_compare() as end ``one`` computes it."""
    a, b = one.uuid, two.uuid
    if a[0] == b[0]:
        if b[1] == 0 and a[1]:
            if a[1] == b[2] and a[2] == b[3]:
                a[1:4] = [0, a[1], a[2]]
                return 1, "34"
            return 1, "36"
        if a[1] == 0 and b[1]:
            if b[1] == a[2] and b[2] == a[3]:
                b[1:4] = [0, b[1], b[2]]
                return -1, "35"
            return -1, "37"
        if not one.crashed and not two.crashed:
            return 0, "40"
        if PRIMARY in (one.role, two.role):
            if one.role == two.role:
                return -100, "41"
            return (1 if one.role == PRIMARY else -1), "41"
        if one.crashed and two.crashed:
            return -1, "40"
        return (1 if one.crashed else -1), "40"
    if a[0] == b[1]:
        return -1, "50"
    if a[0] in (b[2], b[3]):
        return -2, "60"
    if a[1] == b[0]:
        return 1, "70"
    if b[0] in (a[2], a[3]):
        return 2, "80"
    if a[1] == b[1] != 0:
        return 100, "90"
    if {a[2], a[3]} & {b[2], b[3]}:
        return -100, "100"
    return -1000, "unrelated"
