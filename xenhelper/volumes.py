"""LVM: what volumes and groups there are, and the few verbs that make and remove them.

Facts come from one ``lvs`` and one ``vgs`` call (lvmreport(7)), in bytes; what they say of
thin pools is room.py's. A volume is only
removed when the caller names the tags that prove who made it; nothing here opens a data
volume for writing.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from xenhelper import paths
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import run

KIB, GIB = 1024, 1024**3
META_SUFFIX = "_xhmeta"
META_TAG = "xenhelper.meta=yes"
MAX_LV_NAME = 127
# drbdmeta takes less, but DRBD 8.4 refuses to attach it (drbd_nl.c, min_md_device_sectors); it
# matters only in a volume group of extents below that
META_FLOOR = 1024 * KIB
# lvm(8): tags are made of these
_TAG = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-/=!:&#")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")

_VG_FIELDS = "vg_name,vg_size,vg_free,vg_extent_size"
# chunk_size is a segment's: lvs then has a row for each of a volume's segments
_THIN_FIELDS = "pool_lv,data_percent,metadata_percent,chunk_size,"
_LV_FIELDS = "lv_name,lv_size,lv_tags,lv_attr,lv_kernel_major,lv_kernel_minor," + _THIN_FIELDS + _VG_FIELDS
# the first letter of lv_attr
THIN, POOL = "V", "t"


@dataclass(frozen=True)
class Volume:
    """A logical volume. ``device`` is (major, minor), None while inactive; size in bytes;
    ``kind`` is the first letter of lv_attr (lvs(8)): ``o`` has snapshots, ``V`` is thin.

    ``pool``: a thin volume's. Of a thin volume or pool: ``filled``, the hundredths of a per
    cent that are allocated, None while inactive; ``zeroes``: new blocks read as zeros. Of a
    pool: ``meta_filled``, the same of its metadata; ``chunk``, the bytes it gives out at once.
    """

    group: str
    name: str
    size: int
    tags: tuple[str, ...] = ()
    open: bool = False
    device: tuple[int, int] | None = None
    kind: str = "-"
    pool: str = ""
    filled: int | None = None
    meta_filled: int | None = None
    chunk: int = 0
    zeroes: bool = False

    @property
    def used(self) -> int:
        """Bytes that it takes up: all of them unless it is thin and known to have fewer; a
        ten-thousandth more than that, since LVM rounds."""
        if self.kind not in (THIN, POOL) or self.filled is None:
            return self.size
        return min(self.size, -(-self.size * (self.filled + 1) // 10000))

    @property
    def path(self) -> str:
        return f"/dev/{self.group}/{self.name}"

    @property
    def full_name(self) -> str:
        return f"{self.group}/{self.name}"

    def tag(self, key: str) -> str:
        """The value of our tag ``xenhelper.KEY=``, or ''."""
        prefix = f"xenhelper.{key}="
        return next((tag[len(prefix) :] for tag in self.tags if tag.startswith(prefix)), "")

    @property
    def is_meta(self) -> bool:
        """Whether it holds DRBD's metadata: ours by its name, one made by hand by its tag."""
        return self.name.endswith(META_SUFFIX) or META_TAG in self.tags


@dataclass(frozen=True)
class Group:
    """A volume group; sizes in bytes."""

    name: str
    size: int
    free: int
    extent: int


def parse_volumes(text: str) -> list[Volume]:
    """Volumes from ``lvs --reportformat json --units b --nosuffix``. Raises XenhelperError."""
    try:
        # a row for each segment: all that is told here is the same in each
        return list({(row["vg_name"], row["lv_name"]): _volume(row) for row in _rows(text, "lv")}.values())
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _volume(row: dict[str, str]) -> Volume:
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    return Volume(
        group=row["vg_name"],
        name=row["lv_name"].strip("[]"),
        size=int(row["lv_size"]),
        tags=tuple(tag for tag in row["lv_tags"].split(",") if tag),
        open=row["lv_attr"][5:6] == "o",
        device=(major, minor) if major >= 0 and minor >= 0 else None,
        kind=row["lv_attr"][:1] or "-",
        pool=row.get("pool_lv", "").strip("[]"),
        filled=_hundredths(row.get("data_percent", "")),
        meta_filled=_hundredths(row.get("metadata_percent", "")),
        chunk=int(row.get("chunk_size") or 0),
        zeroes=row["lv_attr"][7:8] == "z",
    )


def _hundredths(percent: str) -> int | None:
    """LVM prints two decimals, and nothing where nobody knows."""
    return round(float(percent) * 100) if percent else None


def parse_groups(text: str) -> dict[str, Group]:
    """Groups by name from ``lvs`` or ``vgs --reportformat json --units b --nosuffix``.
    Raises XenhelperError."""
    try:
        return {
            row["vg_name"]: Group(
                row["vg_name"], int(row["vg_size"]), int(row["vg_free"]), int(row["vg_extent_size"])
            )
            for row in [*_rows(text, "vg"), *_rows(text, "lv")]
        }
    except _UNREADABLE as error:
        raise _unreadable(error) from error


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


def _unreadable(error: Exception) -> XenhelperError:
    return XenhelperError(f"can't read LVM's report ({error})", "run `lvs` and `vgs` by hand")


def _rows(text: str, kind: str) -> list[dict[str, str]]:
    try:
        report: Any = json.loads(text)
        return [dict(row) for part in report["report"] for row in part.get(kind, [])]
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _report(command: str, fields: str) -> str:
    argv = [command, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields]
    return run(argv, timeout=30).stdout


def volumes() -> list[Volume]:
    """All volumes of this host. Raises CommandFailed."""
    return parse_volumes(_report("lvs", _LV_FIELDS))


def facts(*wanted: str) -> tuple[list[Volume], dict[str, Group]]:
    """All volumes, and the groups that have any, from one call; groups of those ``wanted``
    that hold no volume yet cost a second one. Raises CommandFailed."""
    text = _report("lvs", _LV_FIELDS)
    groups = parse_groups(text)
    if any(name not in groups for name in wanted):
        groups.update(parse_groups(_report("vgs", _VG_FIELDS)))
    return parse_volumes(text), groups


def split_path(path: str) -> tuple[str, str] | None:
    """(group, volume) that ``path`` names by its form: /dev/VG/LV or /dev/mapper/VG-LV,
    where a dash inside a name is doubled (dmsetup(8), name mangling)."""
    parts = path.split("/")
    if len(parts) != 4 or parts[0] or parts[1] != "dev":
        return None
    if parts[2] != "mapper":
        return (parts[2], parts[3]) if valid_name(parts[2]) and valid_name(parts[3]) else None
    mangled, names, at = parts[3], [""], 0
    while at < len(mangled):
        if mangled[at] == "-" and mangled[at + 1 : at + 2] != "-":
            names.append("")
        else:
            names[-1] += mangled[at]
            at += mangled[at] == "-"
        at += 1
    if len(names) != 2 or not all(valid_name(name) for name in names):
        return None
    return names[0], names[1]


def resolve(path: str, known: Iterable[Volume]) -> Volume | None:
    """The volume among ``known`` that ``path`` leads to, through any link; None if none."""
    device = device_of(path)
    named = split_path(path)
    for volume in known:
        if device is not None:
            if volume.device == device:
                return volume
        elif named == (volume.group, volume.name):
            return volume
    return None


def device_of(path: str) -> tuple[int, int] | None:
    """(major, minor) of the block device at ``path``; None when there is none."""
    import stat

    try:
        found = os.stat(paths.ROOT + path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISBLK(found.st_mode):
        return None
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def valid_name(name: str) -> bool:
    """Whether LVM could have a group or volume of this name (lvm(8), VALID NAMES)."""
    return (
        0 < len(name) <= MAX_LV_NAME and name[0] != "-" and name not in (".", "..") and _NAME.issuperset(name)
    )


def matches(volume: Volume, patterns: Iterable[str]) -> bool:
    """Whether a VG/LV pattern of the configuration fits ``volume``."""
    return any(fnmatchcase(volume.full_name, pattern) for pattern in patterns)


def meta_bytes(size: int, extent: int) -> int:
    """Bytes of metadata volume for ``size`` bytes of data and one peer: 36 KiB and 32 KiB
    for each GiB begun (DRBD's user guide, "meta data size"), in whole extents."""
    need = max(META_FLOOR, 36 * KIB + 32 * KIB * -(-size // GIB))
    return -(-need // extent) * extent


def tags_for(vm: str, resource: str, minor: int, port: int, run_id: str = "") -> tuple[str, ...]:
    """The tags that say what a volume is for. ``run_id`` marks what one run created."""
    tags = [f"xenhelper.vm={vm}", f"xenhelper.resource={resource}"]
    tags += [f"xenhelper.minor={minor}", f"xenhelper.port={port}"]
    if run_id:
        tags.append(f"xenhelper.run={run_id}")
    for tag in tags:
        if len(tag) > 1024 or not _TAG.issuperset(tag):
            raise XenhelperError(f"{tag!r} can't be an LVM tag")
    return tuple(tags)


def create(group: str, name: str, size: int, tags: tuple[str, ...], pool: str = "") -> None:
    """Make volume ``group``/``name`` of exactly ``size`` bytes, tagged from its first moment:
    a thin one in ``pool`` (which zeroes its blocks), if one is named.

    Its start is zeroed and any old signature wiped, unasked. Raises CommandFailed (also
    when it exists) and XenhelperError when LVM rounded the size.
    """
    if pool:
        argv = ["lvcreate", "--yes", "--virtualsize", f"{size}b", "--thinpool", pool, "--name", name]
    else:
        argv = ["lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y", "--size", f"{size}b"]
        argv += ["--name", name]
    for tag in tags:
        argv += ["--addtag", tag]
    run([*argv, group], timeout=60)
    got = size_of(f"/dev/{group}/{name}")
    if got != size:
        raise XenhelperError(f"LVM made /dev/{group}/{name} of {got} bytes instead of {size}")


def extend(volume: Volume, size: int) -> None:
    """Make ``volume`` at least ``size`` bytes, in whole extents; its bytes stay as they are,
    open or not. Nothing to do when it is as large already. Raises CommandFailed."""
    if volume.size < size:
        run(["lvextend", "--yes", "--size", f"{size}b", volume.full_name], timeout=60)


def snapshot(origin: Volume, name: str, size: int, tag: str) -> None:
    """A snapshot ``name`` of ``origin`` with room for ``size`` bytes of changes; a thin one
    takes them from its pool, and is active like any other. Raises CommandFailed."""
    argv = ["lvcreate", "--yes", "--snapshot", "--name", name, "--addtag", tag]
    argv += ["--setactivationskip", "n"] if origin.kind == THIN else ["--size", f"{size}b"]
    run([*argv, origin.full_name], timeout=60)


def size_of(path: str) -> int:
    """Bytes of the block device at ``path``. Raises XenhelperError."""
    try:
        fd = os.open(paths.ROOT + path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise XenhelperError(f"can't open {path}: {error.strerror}") from error
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def zero_start(path: str, length: int = 1024 * KIB) -> None:
    """Zero the first ``length`` bytes of a metadata volume that this run created."""
    if not path.endswith(META_SUFFIX):
        raise XenhelperError(f"{path} is no metadata volume: not zeroed")
    fd = os.open(paths.ROOT + path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        left = min(length, os.lseek(fd, 0, os.SEEK_END))
        os.lseek(fd, 0, os.SEEK_SET)
        while left > 0:
            left -= os.write(fd, bytes(min(left, 65536)))
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(volume: Volume, *required: str) -> None:
    """Remove ``volume`` if it bears every ``required`` tag (at least one). Raises
    XenhelperError when it doesn't, CommandFailed when LVM can't (it is open, say)."""
    missing = [tag for tag in required if tag not in volume.tags]
    if missing or not required:
        raise XenhelperError(f"{volume.path} isn't removed: it lacks the tag {(missing or ['?'])[0]}")
    for attempt in (1, 2, 3):
        try:
            run(["lvremove", "--yes", volume.full_name], timeout=60)
            return
        except CommandFailed:
            # udev may still probe a device that DRBD has just let go
            if attempt == 3:
                raise
            import time

            time.sleep(0.5 * attempt)


def change_tags(path: str, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
    """Add and drop tags of a volume; its data isn't touched. Raises CommandFailed."""
    argv = ["lvchange"]
    for tag in drop:
        argv += ["--deltag", tag]
    for tag in add:
        argv += ["--addtag", tag]
    if len(argv) > 1:
        run([*argv, path.removeprefix("/dev/")], timeout=30)


def users(volume: Volume, but: str = "") -> str:
    """Who holds the volume open on this host, as far as /proc, /sys and xenstore tell;
    ``but``: the name of a block device on it that doesn't count."""
    if volume.device is None:
        return ""
    number = f"{volume.device[0]}:{volume.device[1]}"
    found = []
    try:
        with open(f"{paths.ROOT}/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            found += [f"mounted on {line.split()[4]}" for line in mounts if line.split()[2] == number]
    except OSError:
        pass
    try:
        with open(f"{paths.ROOT}/proc/swaps", encoding="utf-8", errors="replace") as swaps:
            names = [line.split()[0] for line in swaps.readlines()[1:] if line.strip()]
        found += ["swap of this host" for name in names if device_of(name) == volume.device]
    except OSError:
        pass
    holders = f"{paths.ROOT}/sys/dev/block/{number}/holders"
    above = os.listdir(holders) if os.path.isdir(holders) else []
    found += [f"beneath {name}" for name in above if name != but]
    found += _domains_on(volume.device)
    return ", ".join(found)


def _domains_on(device: tuple[int, int]) -> list[str]:
    """Domains whose block backend serves the device directly (physical-device is hex)."""
    from xenhelper.xen.xenstore import Xenstore

    found = []
    try:
        with Xenstore() as store:
            for domid in store.list("backend/vbd"):
                for devid in store.list(f"backend/vbd/{domid}"):
                    value = store.read(f"backend/vbd/{domid}/{devid}/physical-device") or ""
                    major, colon, minor = value.partition(":")
                    try:
                        same = bool(colon) and (int(major, 16), int(minor, 16)) == device
                    except ValueError:
                        continue
                    if same:
                        found.append(f"used by domain {store.read(f'/local/domain/{domid}/name') or domid}")
    except (OSError, XenhelperError):
        pass
    return found
