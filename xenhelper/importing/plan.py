"""What is copied to where: decided from the VM's config and both hosts' facts. Pure."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xenhelper import names, units, volumes
from xenhelper.errors import Refused, UsageError, XenhelperError
from xenhelper.importing import look
from xenhelper.xen.vmconfig import Parsed

_DOM0 = ("", "0", "dom0", "Domain-0")
_OTHER_FORMATS = ("qcow", "qcow2", "vhd", "qed")


@dataclass(frozen=True)
class Item:
    """One disk: ``source`` is its path on the old server, ``size`` its bytes there; it becomes
    the volume ``group``/``name`` of ``local`` bytes here, whole extents. ``pool``: the thin pool
    of the group that it is made in; ``used``: bytes that it takes up there."""

    vdev: str
    source: str
    kind: str
    size: int
    group: str
    name: str
    local: int
    pool: str = ""
    used: int = 0

    @property
    def path(self) -> str:
        return f"/dev/{self.group}/{self.name}"

    @property
    def iflag(self) -> str:
        """How dd reads it there: a device past its page cache, which its kernel's read-ahead
        would slow down; a file system may not be able to do that."""
        return "fullblock,direct" if self.kind == look.BLOCK else "fullblock"


@dataclass(frozen=True)
class Plan:
    """One import. ``id`` marks what it makes; ``origin`` is the config's path on the old server,
    ``config`` the one here."""

    id: str
    vm: str
    host: str
    origin: str
    config: str
    items: tuple[Item, ...]

    @property
    def tags(self) -> tuple[str, str]:
        """What its volumes bear until they are whole."""
        return f"xenhelper.import={self.vm}", f"xenhelper.run={self.id}"

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


def from_json(text: str) -> Plan:
    """The plan that an intent keeps. Raises XenhelperError."""
    try:
        data: dict[str, Any] = json.loads(text)
        return Plan(**{**data, "items": tuple(Item(**item) for item in data["items"])})
    except (ValueError, TypeError, KeyError) as error:
        raise XenhelperError(f"the record of an import can't be read ({error})") from error


def disks(parsed: Parsed) -> list[tuple[str, str]]:
    """(vdev, path there) of each disk that is copied: all but CD-ROMs and empty drives.

    Raises Refused for one that can't be, UsageError for a path that can't be kept.
    """
    from xenhelper.importing.far import check_path

    found = []
    for disk in parsed.disks:
        vdev, path = str(disk.get("vdev", "")), str(disk.get("pdev_path") or "")
        form = str(disk.get("format", "raw"))
        if disk.get("is_cdrom") or not path or form == "empty":
            continue
        where = f"{parsed.name}: disk {vdev[:20]} ({path[:120]})"
        if disk.get("script"):
            raise Refused(
                f"{where} is served by the script {str(disk['script'])[:60]}",
                "only volumes and images are copied: give it one there first",
            )
        if form in _OTHER_FORMATS:
            raise Refused(
                f"{where} is a {form} image: only raw ones are copied",
                f"there: `qemu-img convert -O raw {path} {path}.raw`, and name that in its config",
            )
        if str(disk.get("backend_domname") or "") not in _DOM0:
            raise Refused(f"{where} is served by domain {str(disk['backend_domname'])[:60]}")
        if not names.valid_vdev(vdev):
            raise Refused(f"{where}: such a vdev can't be kept", "write it as xvda, sda or hda")
        found.append((vdev, check_path(path)))
    if not found:
        raise Refused(f"{parsed.name} has no disk that could be copied")
    paths = [path for _, path in found]
    if len(set(paths)) != len(paths):
        raise Refused(f"{parsed.name} has one volume as two disks", "correct its config there")
    return found


def check_asked(vm: str, asked: Sequence[str], wanted: Sequence[tuple[str, str]]) -> None:
    """The volumes that were named are just those of the VM. Raises Refused."""
    left = [path for _, path in wanted if path not in asked]
    if asked and left:
        raise Refused(
            f"{vm} has one more disk there, {left[0]}",
            f"name it, too, or type --vm {vm} instead of volumes",
        )


def check_there(vm: str, seen: look.Seen, wanted: Sequence[tuple[str, str]], far: str) -> None:
    """The VM is off and its disks are there and nobody's. Raises Refused."""
    if not seen.listed:
        raise Refused(f"{far} runs Xen, but its `xl list` fails: whether {vm} runs isn't known", "see there")
    running = [name for name in seen.domains if names.base_vm(name) == vm]
    if running:
        raise Refused(f"{vm} runs on {far} (as {running[0]})", f"`xl shutdown -w {vm}` there first")
    for vdev, path in wanted:
        thing = seen.thing(path)
        if thing.kind == look.GONE:
            raise Refused(f"{far} has no {path} (disk {vdev})", "`lvchange -ay` there, if it isn't active")
        if thing.kind == look.BLOCK and not thing.volume:
            raise Refused(
                f"{far}:{path} (disk {vdev}) is no LVM volume", "only these, and raw images, are copied"
            )
        if thing.used:
            raise Refused(f"{far}:{path} is in use there: {thing.used}", "let it go first")
        if thing.size <= 0 or thing.size % 512:
            raise Refused(f"{far}:{path} has {thing.size} bytes, which is no disk's size")


def group_for(source: str, wanted: str, replicated: Sequence[str]) -> str:
    """The volume group here for a disk that was in group ``source`` there ('': an image).

    Raises UsageError when there is more than one to choose from.
    """
    if wanted:
        return wanted
    if source in replicated:
        return source
    if len(replicated) == 1:
        return replicated[0]
    raise UsageError(
        "which volume group takes the disks isn't said",
        f"--volume-group NAME (replicated are {', '.join(replicated) or 'none'})",
    )


def whole(size: int, extents: Sequence[int]) -> int:
    """``size`` bytes in whole extents of each group that gets a copy."""
    step = math.lcm(*extents)
    return -(-size // step) * step


def volume_names(vm: str, seen: look.Seen, wanted: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Each disk's volume here, by vdev: its name there, or VM-VDEV of an image, and of two that
    have one name in two groups."""
    own = {vdev: seen.thing(path).volume.partition("/")[2] for vdev, path in wanted}
    twice = {name for name in own.values() if list(own.values()).count(name) > 1}
    return {
        vdev: f"{vm}-{vdev}" if not name or name in twice or name.endswith(volumes.META_SUFFIX) else name
        for vdev, name in own.items()
    }


def check_same(old: Plan, vm: str, host: str, seen: look.Seen, wanted: Sequence[tuple[str, str]]) -> None:
    """What was begun is what is asked for again. Raises Refused."""
    if old.host != host:
        raise Refused(
            f"an import of {vm} from {old.host} was begun, and this is {host}",
            f"`xenhelper import --undo {vm}` gives that up",
        )
    if [(item.vdev, item.source) for item in old.items] != list(wanted):
        raise Refused(
            f"{vm} has other disks on {host} than when its import was begun",
            f"`xenhelper import --undo {vm}` gives up what was begun",
        )
    for item in old.items:
        if seen.thing(item.source).size != item.size:
            raise Refused(
                f"{host}:{item.source} has another size than when its import was begun",
                f"`xenhelper import --undo {vm}` gives up what was begun",
            )


def limit(text: str) -> int:
    """Bytes a second of ``50M``; 0: no limit. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([KMG])?", text)
    if not text:
        return 0
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text[:40]!r} is no speed", "write bytes a second as in --limit 50M; K, M or G")
    return max(1, int(float(match[1]) * {"K": 1024, "M": units.MIB, "G": units.GIB}[match[2] or "M"]))


def bridges(texts: Sequence[str]) -> dict[str, str]:
    """Name there -> name here of ``OLD=NEW`` words. Raises UsageError."""
    found = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not equals or not all(re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", word) for word in (old, new)):
            raise UsageError(f"{text[:60]!r} isn't OLD=NEW", "as in --bridge eth0=xenbr0")
        found[old] = new
    return found


def describe(plan: Plan, replicated: Mapping[str, str]) -> list[str]:
    """A line for each disk. ``replicated``: what becomes of it afterwards, by vdev."""
    return [
        f"{item.vdev}: {plan.host}:{item.source} ({units.size(item.size)}) to {item.path}"
        + (f", thin, in pool {item.group}/{item.pool}" if item.pool else "")
        + (f", {replicated[item.vdev]}" if item.vdev in replicated else "")
        for item in plan.items
    ]
