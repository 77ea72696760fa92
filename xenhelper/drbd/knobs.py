"""Resync and buffer settings of a resource, from the replication link and dom0's memory.

Pure. Units and bounds are DRBD 8.4's (drbd.conf(5), drbd_limits.h). ``disk-flushes`` and
the like aren't among them: only who knows of a battery may turn those off.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

_MIB = 1024  # KiB


@dataclass(frozen=True)
class Knobs:
    """``c_*`` steer the resync: rates in KiB/s, ``c_fill_target`` in KiB, ``c_plan_ahead``
    in tenths of a second. ``al_extents``: 4 MiB pieces that a Primary's crash leaves to
    sync. ``max_buffers``: pages of 4 KiB a resource. Both of the latter pairs cost memory.

    ``rs_discard_granularity``: bytes; not the link's, but of a disk that is thin on both hosts
    (room.granularity). A resync asks for so much at once, and discards it where it is zero.

    The defaults serve where the link's speed isn't known.
    """

    al_extents: int = 6433
    c_plan_ahead: int = 20
    c_fill_target: int = 1024
    c_min_rate: int = 40 * _MIB
    c_max_rate: int = 720 * _MIB
    max_buffers: int = 8000
    max_epoch_size: int = 8000
    sndbuf_size: int = 0
    rs_discard_granularity: int = 0

    @property
    def of_link(self) -> "Knobs":
        """The same without what isn't the link's."""
        return replace(self, rs_discard_granularity=0)

    def to_json(self) -> dict[str, int]:
        """Without what only thin disks have, where there is none: an older peer knows no such."""
        return {name: value for name, value in asdict(self).items() if value or name not in THIN}


# drbd_limits.h; al-extents: what a 32 KiB activity log holds
LIMITS = {
    "al_extents": (67, 6433),
    "c_plan_ahead": (1, 300),
    "c_fill_target": (0, 512 * 1024),
    "c_min_rate": (250, 4 << 20),
    "c_max_rate": (250, 4 << 20),
    "max_buffers": (128, 20000),
    "max_epoch_size": (1, 20000),
    "sndbuf_size": (0, 10 << 20),
    "rs_discard_granularity": (0, 1 << 20),
}
DISK = ("al_extents", "c_plan_ahead", "c_fill_target", "c_min_rate", "c_max_rate")
NET = ("max_buffers", "max_epoch_size", "sndbuf_size")
# in a file only where it isn't 0: in no disk's that isn't thin
THIN = ("rs_discard_granularity",)
_IN_KIB = ("c_fill_target", "c_min_rate", "c_max_rate")
# a crashed Primary's hot area is synced within about so many seconds
_CRASH_SYNC = 300


def for_link(speed_mbit: int, memory_mib: int) -> Knobs:
    """For a link of ``speed_mbit`` Mbit/s (0: unknown) and a dom0 of ``memory_mib`` MiB,
    each the lesser one of the two hosts.

    Up to 1 Gbit/s a resync may fill nine tenths of the line, above that six tenths, since
    the disks are the limit then; a third of it goes on beside a busy guest. One
    millisecond of the line is kept in flight, so that a guest's write waits no longer.
    Buffers: at most a sixteenth of dom0's memory a resource.
    """
    buffers = _bounded(memory_mib * 1024 // 4 // 16, 2048, 8000) if memory_mib > 0 else 8000
    if speed_mbit <= 0:
        return Knobs(max_buffers=buffers, max_epoch_size=buffers)
    line = speed_mbit * 1_000_000 // 8 // 1024
    gigabit = 1_000_000_000 // 8 // 1024
    most = min(line * 9 // 10, max(gigabit * 9 // 10, line * 6 // 10), LIMITS["c_max_rate"][1])
    return Knobs(
        al_extents=_bounded(most * _CRASH_SYNC // (4 * _MIB), 1237, 6433),
        c_plan_ahead=10 if speed_mbit >= 10_000 else 20,
        c_fill_target=_bounded(line // 1000, 256, 2048),
        c_min_rate=_rate(most // 3),
        c_max_rate=_rate(most),
        max_buffers=buffers,
        max_epoch_size=buffers,
    )


def _rate(kib: int) -> int:
    """Whole MiB/s where there is one: a file is read by people, too."""
    low, high = LIMITS["c_max_rate"]
    return _bounded(kib // _MIB * _MIB if kib >= _MIB else kib, low, high)


def _bounded(value: int, low: int, high: int) -> int:
    return min(high, max(low, value))


def render(knobs: Knobs, names: tuple[str, ...]) -> tuple[str, ...]:
    """Lines of a resource file: ``c-max-rate 720M;``."""
    return tuple(
        f"{name.replace('_', '-')} {_shown(name, getattr(knobs, name))};"
        for name in names
        if name not in THIN or getattr(knobs, name)
    )


def options(knobs: Knobs, names: tuple[str, ...]) -> list[str]:
    """The same as drbdsetup takes them: ``--c-max-rate=720M``."""
    return [f"--{name.replace('_', '-')}={_shown(name, getattr(knobs, name))}" for name in names]


def _shown(name: str, value: int) -> str:
    if name not in _IN_KIB:
        return str(value)
    return f"{value // _MIB}M" if value % _MIB == 0 else f"{value}k"


def parse(text: str) -> Knobs:
    """What a resource's part of a file that we rendered holds; a missing one is its default."""
    found = {}
    for field in fields(Knobs):
        match = re.search(rf"^\s*{field.name.replace('_', '-')} (\d+)([kM]?);", text, re.MULTILINE)
        if match:
            found[field.name] = int(match[1]) * (_MIB if match[2] == "M" else 1)
    return checked(found)


def checked(values: Mapping[str, object]) -> Knobs:
    """Knobs from ``values`` (the peer's, say). Raises ValueError when one is unknown or
    out of DRBD's range."""
    for name, value in values.items():
        low, high = LIMITS.get(name, (1, 0))
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}={value!r}")
    return Knobs(**{name: value for name, value in values.items() if type(value) is int})
