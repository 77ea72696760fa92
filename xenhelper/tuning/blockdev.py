"""How a volume lies on its disks: sysfs and device-mapper's tables, from the top down.

Reads only; one ``dmsetup table`` for all volumes. Whatever isn't understood counts as a
plain disk, which has a sane value of its own.
"""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass

from xenhelper import paths, volumes
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.tuning import topology
from xenhelper.tuning.topology import Stripes

_DEPTH = 12
_SECTORS_PER_KIB = 2


@dataclass(frozen=True)
class Segment:
    """One line of a device-mapper table (dmsetup(8)); ``length`` in sectors of 512 bytes."""

    length: int
    target: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Geometry:
    """What matters of a volume: its stripes (None: none), and whether seeks cost time."""

    stripes: Stripes | None
    rotational: bool

    @property
    def read_ahead_kib(self) -> int:
        return topology.read_ahead_kib(self.stripes, self.rotational)

    @property
    def why(self) -> str:
        return topology.why(self.stripes, self.rotational)


PLAIN = Geometry(None, True)


def parse_tables(text: str) -> dict[str, tuple[Segment, ...]]:
    """Segments by device name, from ``dmsetup table``."""
    found: dict[str, list[Segment]] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(": ")
        words = rest.split()
        if colon and len(words) >= 3 and words[0].isdecimal() and words[1].isdecimal():
            found.setdefault(name, []).append(Segment(int(words[1]), words[2], tuple(words[3:])))
    return {name: tuple(segments) for name, segments in found.items()}


def tables() -> dict[str, tuple[Segment, ...]]:
    """All of this host's tables; none when device-mapper can't be asked."""
    try:
        return parse_tables(run(["dmsetup", "table"], timeout=15).stdout)
    except XenhelperError:
        return {}


def of(path: str, known: Mapping[str, tuple[Segment, ...]]) -> Geometry:
    """The geometry of the block device at ``path``; a plain disk's when there is none."""
    device = volumes.device_of(path)
    if device is None:
        return PLAIN
    return Geometry(_stripes(f"{device[0]}:{device[1]}", known, _DEPTH), _rotational(*device))


def kernel_name(path: str) -> str:
    """``dm-3`` for the device at ``path``, '' when it isn't there."""
    device = volumes.device_of(path)
    return os.path.basename(_folder(f"{device[0]}:{device[1]}")) if device else ""


def _folder(number: str) -> str:
    """The sysfs folder of device ``MAJOR:MINOR``, '' if there is none."""
    folder = os.path.realpath(f"{paths.ROOT}/sys/dev/block/{number}")
    return folder if os.path.isdir(folder) else ""


def _rotational(major: int, minor: int) -> bool:
    folder = _folder(f"{major}:{minor}")
    if folder and os.path.exists(folder + "/partition"):
        folder = os.path.dirname(folder)
    return read(folder + "/queue/rotational") != "0"


def _stripes(number: str, known: Mapping[str, tuple[Segment, ...]], depth: int) -> Stripes | None:
    folder = _folder(number) if depth else ""
    if not folder:
        return None
    if os.path.exists(folder + "/partition"):
        return _stripes(read(os.path.dirname(folder) + "/dev"), known, depth - 1)
    if os.path.isdir(folder + "/md"):
        return md_array(folder)
    if os.path.isdir(folder + "/dm"):
        parts = [_segment(part, known, depth) for part in known.get(read(folder + "/dm/name"), ())]
        return topology.widest(parts)
    return None


def md_array(folder: str) -> Stripes | None:
    """The stripes of the array whose sysfs folder this is. A reshape shows both numbers,
    the one it comes from in brackets (md.rst)."""
    return topology.md(
        read(folder + "/md/level"),
        _number(read(folder + "/md/raid_disks")),
        _number(read(folder + "/md/chunk_size")) // 1024,
        _number(read(folder + "/md/layout")),
        os.path.basename(folder),
    )


def _segment(part: Segment, known: Mapping[str, tuple[Segment, ...]], depth: int) -> Stripes | None:
    """One target's stripes (the kernel's Documentation/admin-guide/device-mapper)."""
    words = part.words

    def below(*numbers: str) -> Stripes | None:
        return topology.widest([_stripes(number, known, depth - 1) for number in numbers if ":" in number])

    if part.target == "striped" and len(words) >= 4:
        return topology.lvm(_number(words[0]), _number(words[1]) // _SECTORS_PER_KIB, below(*words[2::2]))
    if part.target == "raid" and len(words) >= 3:
        return _dm_raid(words) or below(*words)
    if part.target in ("linear", "snapshot", "snapshot-origin", "thin", "delay", "crypt", "mirror"):
        return below(*words)
    if part.target == "thin-pool":
        return below(*words[1:2])
    if part.target in ("cache", "writecache"):
        return below(*words[2:3]) if part.target == "cache" else below(*words[1:2])
    return None


def _dm_raid(words: tuple[str, ...]) -> Stripes | None:
    """``raid5_ls 3 64 region_size 1024 3 META DATA META DATA META DATA`` (dm-raid.rst)."""
    count = _number(words[1])
    members = _number(words[2 + count]) if len(words) > 2 + count else 0
    options = words[2 : 2 + count]
    level = words[0].split("_")[0]
    layout = 0
    if level == "raid10":
        layout = 2
        for key, value in itertools.pairwise(options):
            if key == "raid10_copies":
                layout = _number(value)
            if key == "raid10_format" and value != "near":
                return topology.md(level, members, _number(options[0]) // _SECTORS_PER_KIB, 1, "LVM")
    chunk = _number(options[0]) // _SECTORS_PER_KIB if options else 0
    return topology.md(level, members, chunk, layout, "LVM")


def _number(text: str) -> int:
    word = text.split()[0] if text.split() else ""
    return int(word) if word.isdecimal() else 0


def read(path: str) -> str:
    """A sysfs file's first line, '' when it can't be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
