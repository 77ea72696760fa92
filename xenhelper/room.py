"""Where a disk's two volumes go on a host, and whether there is room: a group's extents or a
thin pool. Pure.

The copy of a thin volume is thin: in the pool of the same name, else in the only one that the
group there has. Where there is none it is an ordinary volume, and that is said. A copy that was
made thin and can't be so again isn't made: its resource file has DRBD discard what is zero
(:func:`granularity`), which only a thin volume is sure to read as zeros afterwards.

DRBD's metadata is written at nearly every change of what is hot. So it is an ordinary volume
where the group has the extents: a pool that has run full then stops the data's writes, which
DRBD tells of and the other host has, and not DRBD itself. Where the pool has taken the whole
group, it goes there; it is zeroed and written once when it is made, so all of it is allocated
from then on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xenhelper import units, volumes
from xenhelper.errors import Refused, XenhelperError
from xenhelper.volumes import Group, Volume

# a resync can't ask for more at once (drbd_limits.h, DRBD_RS_DISCARD_GRANULARITY_MAX)
MAX_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pool:
    """A thin pool; sizes in bytes. ``free`` is 0 while it isn't active."""

    size: int
    free: int
    chunk: int
    zeroes: bool


# pools by group and name
Pools = Mapping[str, Mapping[str, Pool]]


@dataclass(frozen=True)
class Side:
    """One host: its name, groups and pools."""

    host: str
    groups: Mapping[str, Group]
    pools: Pools


@dataclass(frozen=True)
class Disk:
    """One disk that is to have a copy there, in ``group``; ``volume`` is the one here."""

    volume: Volume
    group: str


@dataclass(frozen=True)
class Place:
    """Pools of the metadata here, of the copy and its metadata there; '' for extents. ``why``:
    what a person should know of a thin volume whose copy isn't, or isn't sparse. ``granularity``:
    see :func:`granularity`."""

    meta_pool: str = ""
    peer_pool: str = ""
    peer_meta_pool: str = ""
    granularity: int = 0
    why: str = ""


def pools(known: Iterable[Volume]) -> dict[str, dict[str, Pool]]:
    """The thin pools among all volumes of a host."""
    found: dict[str, dict[str, Pool]] = {}
    for one in known:
        if one.kind == volumes.POOL:
            pool = Pool(one.size, one.size - one.used, one.chunk, one.zeroes)
            found.setdefault(one.group, {})[one.name] = pool
    return found


def told(known: Iterable[Volume], groups: Iterable[str]) -> dict[str, Any]:
    """The pools of some groups, for the other host."""
    wanted = set(groups)
    return {
        group: {name: vars(pool) for name, pool in mine.items()}
        for group, mine in pools(known).items()
        if group in wanted
    }


def from_json(data: object) -> dict[str, dict[str, Pool]]:
    """What the other host told, checked. An older one tells nothing: no pools. Raises
    XenhelperError."""
    try:
        tree: Any = {} if data is None else data
        return {
            _name(group): {_name(name): _pool(dict(pool)) for name, pool in dict(mine).items()}
            for group, mine in dict(tree).items()
        }
    except (TypeError, ValueError, KeyError) as error:
        raise XenhelperError(f"the other host's thin pools can't be read ({error})") from error


def _name(name: object) -> str:
    if not isinstance(name, str) or not volumes.valid_name(name):
        raise ValueError(f"name {str(name)[:40]!r}")
    return name


def _pool(data: dict[str, Any]) -> Pool:
    numbers = data["size"], data["free"], data["chunk"]
    if not all(type(number) is int and 0 <= number < 1 << 60 for number in numbers):
        raise ValueError("sizes out of range")
    return Pool(*numbers, data["zeroes"] is True)


def choose(pool: str, group: str, side: Side) -> tuple[str, str]:
    """(the pool of ``side``'s ``group`` that takes the copy of a volume in ``pool``, '' for
    none; then why not)."""
    mine = side.pools.get(group, {})
    able = {name: one for name, one in mine.items() if one.zeroes}
    if pool in able:
        return pool, ""
    if len(able) == 1:
        return next(iter(able)), ""
    if pool in mine or (mine and not able):
        bad = pool if pool in mine else next(iter(mine))
        return "", f"pool {group}/{bad} on {side.host} doesn't zero new blocks (`lvchange --zero y` there)"
    if able:
        return "", f"{group} on {side.host} has {len(able)} thin pools, none of them named {pool}"
    return "", f"{group} on {side.host} has no thin pool"


def granularity(one: Pool | None, two: Pool | None) -> int:
    """Bytes of DRBD's rs-discard-granularity for a disk that is in these pools; 0 where one end
    isn't thin.

    DRBD raises it to the chunk size of the volume that it stands on (sanitize_disk_conf in
    drbd_nl.c), so the smaller one suits both. An ordinary volume may be on a disk that reads
    anything after a discard, and a resync of chunks larger than :data:`MAX_CHUNK` never asks
    for a whole one (make_resync_request in drbd_worker.c).
    """
    ends = [pool for pool in (one, two) if pool is not None and pool.zeroes]
    chunks = [pool.chunk for pool in ends]
    if len(ends) < 2 or not min(chunks) or max(chunks) > MAX_CHUNK:
        return 0
    return min(chunks)


def place(here: Side, there: Side, disks: Sequence[Disk], meta_here: bool = True) -> list[Place]:
    """A place for each disk's copy on ``there``, and for the metadata at both ends (``meta_here``:
    it isn't there yet). Raises Refused when there isn't room."""
    near, far = _Ledger(here), _Ledger(there)
    begun = []
    for disk in disks:
        volume, pool, why, step = disk.volume, "", "", 0
        if volume.pool:
            pool, why = choose(volume.pool, disk.group, there)
        if pool:
            ours = here.pools.get(volume.group, {}).get(volume.pool)
            step = granularity(ours, there.pools[disk.group][pool])
            if not step:
                why = _not_sparse(volume, ours, disk.group, pool, there)
        far.take(disk.group, volume.used if step else volume.size, pool, why)
        begun.append((pool, why, step))
    mine = [(disk.volume.group, disk.volume.size, disk.volume.pool) for disk in disks]
    theirs = [(disk.group, disk.volume.size, pool) for disk, (pool, _, _) in zip(disks, begun, strict=True)]
    meta_pools = near.take_metas(mine) if meta_here else [""] * len(mine)
    peer_meta_pools = far.take_metas(theirs)
    far.check()
    near.check()
    return [
        Place(meta_pool, pool, peer_meta_pool, step, why)
        for meta_pool, peer_meta_pool, (pool, why, step) in zip(
            meta_pools, peer_meta_pools, begun, strict=True
        )
    ]


def check_own(side: Side, disks: Sequence[tuple[str, int, str, int]]) -> None:
    """Room on ``side`` for disks of (group, size, pool or '', bytes that aren't there yet) and
    their metadata. Raises Refused."""
    ledger = _Ledger(side)
    for group, _, pool, more in disks:
        ledger.take(group, more, pool)
    ledger.take_metas([(group, size, pool) for group, size, pool, _ in disks])
    ledger.check()


@dataclass(frozen=True)
class Lost:
    """A disk of a host that lost both of its volumes. ``pool``, ``used``: of the other host's,
    '' for an ordinary one; ``granularity``: what its resource file has of it."""

    resource: str
    group: str
    size: int
    pool: str
    used: int
    granularity: int


def again(side: Side, disks: Sequence[Lost]) -> list[tuple[str, str, str]]:
    """(pool of the data, of the metadata, why it isn't thin as on the other host) of what is
    made anew on ``side``. Raises Refused when there isn't room."""
    ledger, begun = _Ledger(side), []
    for disk in disks:
        pool, why = choose(disk.pool, disk.group, side) if disk.pool or disk.granularity else ("", "")
        if disk.granularity and not pool:
            raise Refused(
                f"{disk.resource} is thin on both hosts, and {why}",
                f"make one on {side.host}: `lvcreate --type thin-pool --size SIZE --name "
                f"{disk.pool or 'NAME'} {disk.group}`, then again",
            )
        sparse = pool and disk.granularity and side.pools[disk.group][pool].chunk <= MAX_CHUNK
        ledger.take(disk.group, disk.used if sparse else disk.size, pool, why)
        begun.append((pool, why))
    metas = ledger.take_metas([(d.group, d.size, pool) for d, (pool, _) in zip(disks, begun, strict=True)])
    ledger.check()
    return [(pool, meta, why) for meta, (pool, why) in zip(metas, begun, strict=True)]


def _not_sparse(volume: Volume, ours: Pool | None, group: str, pool: str, there: Side) -> str:
    if ours is not None and not ours.zeroes:
        where = f"{volume.group}/{volume.pool}"
        return f"pool {where} here doesn't zero new blocks (`lvchange --zero y {where}`)"
    return (
        f"the pools' chunks are larger than {units.size(MAX_CHUNK)}, which DRBD's resync can't leave out: it "
        f"fills the copy in {group}/{pool} on {there.host}"
    )


class _Ledger:
    """What is needed of one host."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._extents: dict[str, int] = {}
        self._pools: dict[tuple[str, str], int] = {}
        self._why: dict[str, str] = {}

    def take(self, group: str, size: int, pool: str = "", why: str = "") -> None:
        """``why``: why it isn't thin, of a thin volume's copy in the group itself."""
        if pool:
            self._pools[group, pool] = self._pools.get((group, pool), 0) + size
            return
        self._extents[group] = self._extents.get(group, 0) + size
        if why:
            self._why[group] = why

    def take_metas(self, disks: Sequence[tuple[str, int, str]]) -> list[str]:
        """Room for the metadata of disks of (group, size, pool or ''): the pool that each one's
        goes to, or ''. Those of ordinary volumes have nowhere else to go, so they come first."""
        found = {}
        for at in sorted(range(len(disks)), key=lambda at: bool(disks[at][2])):
            group, size, pool = disks[at]
            facts = self._side.groups[group]
            meta = volumes.meta_bytes(size, facts.extent)
            known = self._side.pools.get(group, {}).get(pool)
            # where blocks aren't zeroed, what was never written reads as anything
            fits = facts.free >= self._extents.get(group, 0) + meta
            found[at] = "" if fits or known is None or not known.zeroes else pool
            self.take(group, meta, found[at])
        return [found[at] for at in range(len(disks))]

    def check(self) -> None:
        """Raises Refused."""
        side = self._side
        for group, why in self._why.items():
            need = self._extents[group]
            if need > side.groups[group].free:
                raise Refused(
                    f"volume group {group} on {side.host} has {_mib(side.groups[group].free)} free, but "
                    f"{_mib(need)} are needed: an ordinary copy of a thin volume takes its whole size, and "
                    f"{why}",
                    "make a thin pool there (`lvcreate --type thin-pool`), or enlarge the group",
                )
        check(side.host, {name: group.free for name, group in side.groups.items()}, self._extents)
        for (group, name), need in self._pools.items():
            free = side.pools[group][name].free
            if need > free:
                more = -(-(need - free) // units.MIB)
                raise Refused(
                    f"thin pool {group}/{name} on {side.host} has {_mib(free)} free, but {_mib(need)} are "
                    "needed",
                    f"on {side.host}: `lvextend --size +{more}M {group}/{name}`, or remove volumes there",
                )


def check(host: str, free: Mapping[str, int], need: Mapping[str, int]) -> None:
    """Raises Refused when a volume group of ``host`` has less free than it needs."""
    for name, size in need.items():
        if free[name] < size:
            raise Refused(
                f"volume group {name} on {host} has {_mib(free[name])} free, but {_mib(size)} are needed",
                "enlarge it or remove volumes there",
            )


def _mib(size: int) -> str:
    return f"{size / units.MIB:.0f} MiB"


def word(volume: Volume, group: str, one: Place, peer: str) -> str:
    """What a person is told of a thin volume's copy; '' for an ordinary one."""
    if not volume.pool:
        return ""
    if not one.peer_pool:
        return f"its copy on {peer} is an ordinary volume, not thin: {one.why}"
    thin = f"its copy on {peer} is thin, in pool {group}/{one.peer_pool}"
    return thin + (f"; {one.why}" if one.why else "")
