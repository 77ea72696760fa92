"""What the old server says of itself and of the disks, read into values. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from xenhelper import volumes
from xenhelper.errors import XenhelperError

BLOCK, FILE, GONE = "block", "file", "gone"
# fields of /sys/dev/block/N/stat (Documentation/block/stat.rst): writes, sectors written,
# discards, sectors discarded
_WRITTEN = (4, 6, 11, 13)


@dataclass(frozen=True)
class Thing:
    """What a path is there. ``size`` in bytes; ``volume`` is VG/LV of an LVM volume; ``used`` is
    who holds it open, '' nobody. ``mark`` stays the same as long as nothing is written to it;
    '' where that can't be told (a kernel before 5.15 doesn't number its disks). ``pool``: a thin
    volume's; ``filled``: the per cent of it that are allocated."""

    path: str
    kind: str
    size: int = 0
    volume: str = ""
    used: str = ""
    mark: str = ""
    pool: str = ""
    filled: float = 100.0


@dataclass(frozen=True)
class Seen:
    """The old server. ``domains`` are the names of its domains, none where Xen doesn't run;
    ``listed``: its xl could say so. ``auto``: names in /etc/xen/auto."""

    host: str
    domains: tuple[str, ...]
    listed: bool
    auto: tuple[str, ...]
    things: tuple[Thing, ...]

    def thing(self, path: str) -> Thing:
        """What was asked for as ``path``."""
        return next(thing for thing in self.things if thing.path == path)


def parse(text: str, paths: Sequence[str]) -> Seen:
    """:class:`Seen` from what far.LOOK_AT printed for these paths. Raises XenhelperError."""
    said: dict[str, list[str]] = {}
    of_path: dict[tuple[str, int], str] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(" ")
        said.setdefault(key, []).append(rest)
        number, _, value = rest.partition(" ")
        if key in ("block", "mark", "file", "gone", "user") and number.isdecimal():
            of_path.setdefault((key, int(number)), value)
    try:
        host, boot = said["host"][0], said["boot"][0]
        names = _volumes(said.get("lv", []))
        things = tuple(_thing(path, at, of_path, names, boot) for at, path in enumerate(paths))
        # "Name  ID  Mem VCPUs  State  Time(s)": a name may hold blanks
        domains = tuple(line.rsplit(None, 5)[0].strip() for line in said.get("domain", []) if line.strip())
    except (KeyError, IndexError, ValueError) as error:
        raise XenhelperError(
            f"what the old server says of itself can't be read ({type(error).__name__} {error})",
            "see that `lvs`, `stat` and `blockdev` work there",
        ) from error
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", host):
        raise XenhelperError("the old server's own name (`uname -n`) can't be read")
    return Seen(host, domains, "unlisted" not in said, tuple(said.get("auto", [])), things)


def _volumes(lines: Sequence[str]) -> dict[str, tuple[str, str, str, float]]:
    """(VG/LV, lv_attr, thin pool, per cent allocated) by device number."""
    found = {}
    for line in lines:
        group, name, _, attributes, major, minor, *thin = line.strip().split("|")
        pool, filled = thin if len(thin) == 2 else ("", "")
        if attributes[:1] != volumes.THIN or not volumes.valid_name(pool):
            pool, filled = "", ""
        if volumes.valid_name(group) and volumes.valid_name(name.strip("[]")):
            full = f"{group}/{name.strip('[]')}"
            found[f"{int(major)}:{int(minor)}"] = (full, attributes, pool, float(filled or 100))
    return found


def _thing(
    path: str,
    at: int,
    said: dict[tuple[str, int], str],
    names: dict[str, tuple[str, str, str, float]],
    boot: str,
) -> Thing:
    used = said.get(("user", at), "")
    mark = said.get(("mark", at), "").split()
    if ("block", at) in said:
        device, size = said["block", at].split()
        volume, attributes, pool, filled = names.get(device, ("", "", "", 100.0))
        if attributes[5:6] == "o":
            used = used or "somebody (a domain, a mount or a device above it)"
        return Thing(path, BLOCK, int(size), volume, used, _block_mark(boot, device, mark), pool, filled)
    if ("file", at) in said:
        return Thing(path, FILE, int(said["file", at]), "", used, " ".join(mark))
    return Thing(path, GONE)


def _block_mark(boot: str, device: str, words: Sequence[str]) -> str:
    """``words``: the disk's number in this boot, whether its kernel counts, its counters."""
    number, counts, *fields = words
    if number == "-" or counts != "1":
        return ""
    return " ".join([boot, device, number, *(fields[at] for at in _WRITTEN if at < len(fields))])
