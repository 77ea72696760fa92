"""How large a disk is to be, and whether both hosts have the room: the deciding half of grow."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from xenhelper import volumes
from xenhelper.errors import Refused, UsageError, XenhelperError

# as LVM takes them: powers of 1024
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\+?)(\d{1,12}(?:\.\d{1,6})?)([MGT])(?:iB)?", re.IGNORECASE | re.ASCII)
MAX = 1 << 60


@dataclass(frozen=True)
class Side:
    """One host's volumes of a disk; all sizes in bytes. ``kind``: see volumes.Volume. ``pool``:
    of a thin one, its pool, and what that has free; ``sparse``: what is new stays unallocated
    (room.granularity)."""

    host: str
    volume: str
    size: int
    meta: str
    meta_size: int
    extent: int
    free: int
    meta_extent: int
    kind: str = "-"
    pool: str = ""
    pool_free: int = 0
    sparse: bool = False

    def to_json(self) -> dict[str, Any]:
        """Without what only thin ones have, where it isn't: an older peer knows no such."""
        return {key: value for key, value in asdict(self).items() if self.pool or key not in _THIN}


_THIN = ("pool", "pool_free", "sparse")


def side_from_json(data: Mapping[str, Any]) -> Side:
    """What the peer said of its end. Raises XenhelperError."""
    try:
        side = Side(**data)
        if type(side.pool) is not str:
            raise TypeError("pool isn't a name")
    except TypeError as error:
        raise XenhelperError(f"the peer's volumes can't be read ({error})") from error
    numbers = (side.size, side.meta_size, side.extent, side.free, side.meta_extent, side.pool_free)
    sane = not side.pool or volumes.valid_name(side.pool)
    if not sane or not all(type(n) is int and 0 <= n < MAX for n in numbers) or not side.extent:
        raise XenhelperError("the peer's volumes have sizes out of range")
    return side


def wanted(text: str, size: int, extents: tuple[int, ...]) -> int:
    """Bytes that ``text`` (``20G``, ``+10G``, ``1.5T``) means for a disk of ``size`` bytes, in
    whole extents of both hosts. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:40]!r} is no size", "write it as 20G, or +10G to add; M, G or T")
    number = int(float(match[2]) * _UNITS[match[3].upper()])
    target = number + (size if match[1] else 0)
    if number == 0 or target >= MAX:
        raise UsageError(f"{text[:40]!r} is no size that a disk can have")
    step = math.lcm(*extents)
    return -(-target // step) * step


def meta_target(side: Side, target: int) -> int:
    """Bytes that the metadata volume of ``side`` needs for ``target`` bytes of data."""
    return max(side.meta_size, volumes.meta_bytes(target, side.meta_extent))


def check(name: str, size: int, target: int, sides: tuple[Side, Side]) -> None:
    """Raises Refused when ``name`` of ``size`` bytes can't become ``target`` bytes (pure)."""
    if target < size:
        raise Refused(
            f"{name} has {_mib(size)}, and {_mib(target)} is less: a disk isn't made smaller",
            "copy it to a smaller one inside the guest",
        )
    for side in sides:
        if side.kind in "oO" and side.size < target:
            raise Refused(
                f"{side.volume} on {side.host} has a snapshot, and LVM grows none that has",
                "remove the snapshot (`lvs` shows it), then try again",
            )
        more = max(0, target - side.size)
        # DRBD's resync of what is new fills it, unless it can leave it out
        if side.pool and more and side.pool_free < (1 if side.sparse else more):
            raise Refused(
                f"the thin pool {side.pool} of {side.volume} on {side.host} has {_mib(side.pool_free)} free"
                + ("" if side.sparse else f", but {_mib(more)} are needed"),
                f"`lvextend --size +{_whole(more)}M {side.volume.split('/')[2]}/{side.pool}` there",
            )
        need = more if side.kind != "V" else 0
        need += meta_target(side, target) - side.meta_size
        if need > side.free:
            raise Refused(
                f"the volume group of {side.volume} on {side.host} has {_mib(side.free)} free, "
                f"but {_mib(need)} are needed",
                "enlarge it (`vgextend`) or remove volumes there",
            )


def _whole(size: int) -> int:
    return -(-size // (1 << 20))


def _mib(size: int) -> str:
    return f"{size / 1048576:.0f} MiB"
