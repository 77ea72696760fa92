"""Which disks of a VM are replicated: pure decisions from facts, with their reasons.

``leave`` is for what policy or its nature keeps out; ``refuse`` for what would put a
writer beneath DRBD or can't be right. Nothing here reads the world.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from xenhelper import names, paths
from xenhelper.volumes import MAX_LV_NAME, META_SUFFIX, Volume, matches, resolve, split_path

REPLICATE, LEAVE, REFUSE = "replicate", "leave", "refuse"
# xl's `drbd:RES` comes to the same (libxlu_disk_l.l); the disk's path is the resource's name
BY_HAND = ("block-drbd", "/etc/xen/scripts/block-drbd")


@dataclass(frozen=True)
class Rules:
    """The policy of /etc/xenhelper/xenhelper.conf: what is replicated and what isn't."""

    volume_groups: tuple[str, ...]
    exclude_volumes: tuple[str, ...] = ()
    exclude_vms: tuple[str, ...] = ()
    shared_volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the host has: its volumes; our resource records by name; which resource of
    anybody's has a local volume's path (links resolved) as its disk or metadata."""

    volumes: tuple[Volume, ...]
    records: Mapping[str, Mapping[str, str]]
    beneath: Mapping[str, str]


@dataclass(frozen=True)
class Decision:
    """What becomes of one disk. ``resource`` is set when it has one already."""

    vdev: str
    path: str
    action: str
    reason: str
    volume: Volume | None = None
    resource: str = ""


def excluded(vm: str, rules: Rules) -> bool:
    """Whether the whole VM is left out by name."""
    return any(fnmatchcase(vm, pattern) for pattern in rules.exclude_vms)


def decide(vm: str, disks: Sequence[Mapping[str, Any]], rules: Rules, facts: Facts) -> list[Decision]:
    """One decision per disk, in their order."""
    decisions = [_decide(vm, disk, rules, facts) for disk in disks]
    seen: dict[str, str] = {}
    for at, decision in enumerate(decisions):
        if decision.action == REPLICATE and decision.volume is not None:
            other = seen.setdefault(decision.volume.path, decision.vdev)
            if other != decision.vdev:
                reason = f"{decision.path} is the disk {other} of this VM already"
                decisions[at] = Decision(decision.vdev, decision.path, REFUSE, reason, decision.volume)
    return decisions


def _decide(vm: str, disk: Mapping[str, Any], rules: Rules, facts: Facts) -> Decision:
    vdev, path = str(disk.get("vdev", "")), str(disk.get("pdev_path") or "")
    script = str(disk.get("script") or "")

    def result(action: str, reason: str, volume: Volume | None = None, resource: str = "") -> Decision:
        return Decision(vdev, path, action, reason, volume, resource)

    if script in (paths.BLOCK_SCRIPT, "/etc/xen/scripts/" + paths.BLOCK_SCRIPT):
        owner = facts.records.get(path, {}).get("vm", vm)
        if owner != vm:
            return result(REFUSE, f"resource {path} belongs to VM {owner}")
        return result(LEAVE, f"is on resource {path} already")
    if script in BY_HAND:
        record = facts.records.get(path)
        if record is None:
            return result(LEAVE, f"is on resource {path}, made by hand (`xenhelper convert` takes it over)")
        if record.get("vm") != vm:
            return result(REFUSE, f"resource {path} belongs to VM {record.get('vm')}")
        own = resolve(record.get("volume", ""), facts.volumes)
        return result(REPLICATE, f"is on resource {path} already", own, path)
    volume = resolve(path, facts.volumes) if path.startswith("/") else None
    if volume is not None:
        taken = _beneath(vm, vdev, volume, facts)
        if isinstance(taken, Decision):
            return Decision(vdev, path, taken.action, taken.reason, volume)
        if taken:
            return result(REPLICATE, f"is on resource {taken} already", volume, taken)
        left = volume.tag("left-over")
        if left:
            return result(
                REFUSE, f"{path} is an old copy of a disk of {left}, which other hosts have", volume
            )
    elif path.startswith("/dev/drbd"):
        return result(LEAVE, "is a DRBD device already")
    reason = _left_by_nature(disk, script, path)
    if reason:
        return result(LEAVE, reason)
    if volume is None:
        named = split_path(path)
        if named is not None and named[0] in rules.volume_groups:
            return result(REFUSE, f"{path}: there is no such active volume")
        return result(LEAVE, f"{path} is no LVM volume")
    return _by_rules(result, volume, vdev, rules)


def _beneath(vm: str, vdev: str, volume: Volume, facts: Facts) -> "Decision | str":
    """A refusal, the name of this disk's own resource, or '' when nothing is on it."""
    path = volume.path
    for name, record in facts.records.items():
        if record.get("meta") == path:
            return Decision(vdev, path, REFUSE, f"{path} holds the metadata of resource {name}")
        if record.get("volume") != path:
            continue
        if record.get("vm") == vm:
            return name  # under whatever vdev: a resource keeps the name of its adoption
        owner = f"disk {record.get('vdev')} of VM {record.get('vm')}"
        return Decision(vdev, path, REFUSE, f"{path} is beneath DRBD resource {name} ({owner})")
    foreign = facts.beneath.get(path, "")
    if foreign:
        return Decision(vdev, path, REFUSE, f"{path} is beneath DRBD resource {foreign}")
    return ""


def _left_by_nature(disk: Mapping[str, Any], script: str, path: str) -> str:
    backend, form = str(disk.get("backend", "unknown")), str(disk.get("format", "raw"))
    if disk.get("is_cdrom"):
        return "is a CD-ROM"
    if form == "empty" or not path:
        return "has no medium"
    if script:
        return f"has its own script {script}"
    if str(disk.get("backend_domname") or "dom0") not in ("dom0", "Domain-0", "0"):
        return f"is served by domain {disk['backend_domname']}"
    if backend not in ("unknown", "phy"):
        return f"has backend {backend}"
    if form not in ("raw", "unknown"):
        return f"has format {form}"
    return "" if path.startswith("/dev/") else "is file-backed"


def _by_rules(result: Any, volume: Volume, vdev: str, rules: Rules) -> Decision:
    decision: Decision
    if volume.tag("import"):
        reason = f"{volume.path} isn't whole yet: the import of {volume.tag('import')} isn't finished"
        decision = result(REFUSE, reason, volume)
    elif volume.group not in rules.volume_groups:
        decision = result(LEAVE, f"volume group {volume.group} isn't replicated", volume)
    elif matches(volume, rules.shared_volumes):
        decision = result(LEAVE, f"{volume.full_name} is declared shared", volume)
    elif matches(volume, rules.exclude_volumes):
        decision = result(LEAVE, f"{volume.full_name} is left out by name", volume)
    elif volume.name.endswith(META_SUFFIX):
        decision = result(REFUSE, f"{volume.path} is a metadata volume by its name", volume)
    elif not names.valid_vdev(vdev):
        decision = result(REFUSE, f"vdev {vdev[:40]!r} can't be part of a resource's name", volume)
    elif len(volume.name) + len(META_SUFFIX) > MAX_LV_NAME:
        decision = result(REFUSE, f"{volume.path}: its name leaves no room for {META_SUFFIX}", volume)
    else:
        decision = result(REPLICATE, "will be replicated", volume)
    return decision


def roomiest(need: Mapping[str, Mapping[str, int]], free: Mapping[str, Mapping[str, int]]) -> str:
    """The peer of ``free`` whose fullest volume group would have the most bytes left once
    it holds what is ``need``ed there, the first by name of equals; '' when none has room.
    Both by peer, then by its volume group."""
    left = {
        peer: min(free[peer].get(group, -1) - size for group, size in sizes.items())
        for peer, sizes in need.items()
        if peer in free and sizes
    }
    fits = [peer for peer in sorted(left) if left[peer] >= 0]
    return max(fits, key=lambda peer: left[peer], default="")


def refusals(decisions: Iterable[Decision]) -> list[Decision]:
    """Those that stop the VM's start."""
    return [decision for decision in decisions if decision.action == REFUSE]
