"""What is to be imported, and whether it can be: the old server, this host and the peer are read.

Everything that can be refused is refused here, before anything is made.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from xenhelper import (
    config,
    consider,
    intents,
    names,
    policy,
    provision,
    replicate_peer,
    room,
    units,
    vmfile,
    volumes,
)
from xenhelper.consider import Considered, Request
from xenhelper.errors import Refused, UsageError
from xenhelper.importing import far, look, mend, plan
from xenhelper.importing.plan import Item, Plan
from xenhelper.xen import domains, vmconfig
from xenhelper.xen.vmconfig import Parsed

KIND = "import"
# seconds: what read for a run that was killed here is ended there a moment later
_LEFT_BEHIND = 20.0


@dataclass(frozen=True)
class Wish:
    """What was typed. ``paths``: volumes, images or one config there; ``again``: the command."""

    host: str
    paths: tuple[str, ...]
    vm: str = ""
    group: str = ""
    peer: str = ""
    bridges: dict[str, str] = field(default_factory=dict)
    limit: int = 0
    again: str = "xenhelper import"


@dataclass(frozen=True)
class Found:
    """All that is decided before the first change: ``text`` is the config as it will be here,
    ``lines`` say what will be done."""

    plan: Plan
    text: str
    lines: tuple[str, ...]
    seen: look.Seen


# reading


def read(old: far.Far, wish: Wish) -> tuple[str, str, Parsed]:
    """The VM's config there: path, text, xl's reading. Raises XenhelperError."""
    configs = [path for path in wish.paths if path.endswith(".cfg") or path.startswith("/etc/xen/")]
    others = tuple(path for path in wish.paths if path not in configs)
    if len(configs) > 1 or (configs and others):
        raise UsageError(
            "one config, or volumes, or --vm: not several of these", "name only one VM at a time"
        )
    if not wish.paths and not wish.vm:
        raise UsageError(
            "what is to be imported isn't said", "name its config or volumes there, or --vm NAME"
        )
    if configs:
        origin, text, parsed = _config(old, configs[0])
        if wish.vm and parsed.name != wish.vm:
            raise UsageError(f"{old.host}:{origin} is the config of {parsed.name}, not of {wish.vm}")
    else:
        origin, text, parsed = _search(old, wish.vm, others)
    names.check_vm(parsed.name)
    plan.check_asked(parsed.name, others, plan.disks(parsed))
    return origin, text, parsed


def _config(old: far.Far, path: str) -> tuple[str, str, Parsed]:
    """Path, text and xl's reading of a config there. Raises XenhelperError."""
    text = old.ask(far.READ, far.check_path(path), do="`ls /etc/xen` there shows the configs")
    if len(text) > vmconfig.MAX_BYTES or "\0" in text or "\ufffd" in text:
        raise UsageError(f"{old.host}:{path} is no VM's config (too long, or not UTF-8)")
    if vmconfig.split(text)[1] is not None:
        raise Refused(
            f"{old.host}:{path} is of a VM that xenhelper replicates there",
            "`xenhelper forget` there first, or pair the hosts and migrate it",
        )
    with vmconfig.Scratch(text) as scratch:
        return path, text, vmconfig.dry_run(domains.real_xl(), scratch)


def _search(old: far.Far, vm: str, sources: Sequence[str]) -> tuple[str, str, Parsed]:
    """The one config in /etc/xen there of this VM, or with these disks."""
    word = sources[0] if sources else names.check_vm(vm)
    what = f"VM {vm}" if vm else f"disk {word}"
    hits, refused = [], None
    for path in sorted(old.ask(far.NAMING, word).splitlines()):
        try:
            found = _config(old, path)
        except (UsageError, vmconfig.DryRunFailed):
            continue  # another kind of file, or another path than any config's
        except Refused as error:
            refused = error  # which counts only if no other file is the one
            continue
        here = {str(disk.get("pdev_path") or "") for disk in found[2].disks}
        if (not vm or found[2].name == vm) and here.issuperset(sources):
            hits.append(found)
    if refused is not None and not hits:
        raise refused
    if len(hits) != 1:
        said = "more than one config" if hits else "no config"
        raise UsageError(
            f"{old.host} has {said} in /etc/xen for {what}",
            f"name it: `xenhelper import root@{old.host}:/etc/xen/NAME.cfg`",
        )
    return hits[0]


# deciding


def decide(old: far.Far, wish: Wish, origin: str, text: str, parsed: Parsed) -> Found:
    """Everything that can be refused is, before anything is made. Raises XenhelperError."""
    vm, settings = parsed.name, config.load()
    config.check_name(settings, os.uname().nodename)
    wanted = plan.disks(parsed)
    seen = there_now(old, vm, wanted)
    far.check_other(old.host, seen.host, settings.host)
    intent = intents.read(KIND, vm)
    if intent is not None:
        made = plan.from_json(intent["plan"])
        plan.check_same(made, vm, old.host, seen, wanted)
    else:
        made = _new(old, wish, origin, parsed, seen, settings)
    known, groups = volumes.facts(*(item.group for item in made.items))
    _check_free(made, known, begun=intent is not None)
    mended, after, notes = mend.mended(domains.real_xl(), text, parsed, made, wish.bridges)
    request = Request(made.config, mended, mended, after, True, domains.real_xl(), (), wish.peer)
    considered = _consider(request, made, settings, known, groups)
    there = consider.look(considered, tidy=False) if considered.replicated else None
    if there is not None:
        if intent is None:
            extents = [int(group["extent"]) for group in there.groups.values()]
            made, considered = _resized(made, considered, extents)
        consider.check(considered, there)
        if there.file.sha256:
            raise Refused(
                f"{considered.peer} has a file {made.config} already",
                "move it away there, or rename the VM's here",
            )
    _check_room(made, known, groups)
    lines = [*_described(made, considered), *notes, f"config {old.host}:{origin} to {made.config}"]
    lines += [f"warning: {line}" for line in mend.missing(after, old.host)]
    if there is not None and there.missing:
        lines.append(
            f"warning: {vm} couldn't run on {considered.peer}, which lacks {', '.join(there.missing)}"
        )
    return Found(made, mended, tuple(lines), seen)


def _new(
    old: far.Far, wish: Wish, origin: str, parsed: Parsed, seen: look.Seen, settings: config.Config
) -> Plan:
    """The plan of a first run, its sizes by this host's extents."""
    vm, wanted = parsed.name, plan.disks(parsed)
    if vmfile.record(vm) or provision.vm_records(vm):
        raise Refused(f"{vm} is replicated on this host already", "`xenhelper status` shows it")
    if replicate_peer.domains_of(vm):
        raise Refused(f"a domain {vm} runs on this host", "`xl list` shows it")
    taken = plan.volume_names(vm, seen, wanted)
    known, groups = volumes.facts(*settings.volume_groups, *([wish.group] if wish.group else []))
    pools = room.pools(known)
    items = []
    for vdev, path in wanted:
        thing = seen.thing(path)
        group = plan.group_for(thing.volume.partition("/")[0], wish.group, settings.volume_groups)
        if group not in groups:
            raise UsageError(f"this host has no volume group {group}", "`vgs` shows them")
        local = plan.whole(thing.size, [groups[group].extent])
        if not volumes.valid_name(taken[vdev]):
            raise Refused(f"{vm}: {taken[vdev][:120]!r} can't be a volume's name", "rename it there")
        # thin as it was, where just that is prepared here
        here = pools.get(group, {}).get(thing.pool)
        pool = thing.pool if here is not None and here.zeroes else ""
        used = min(local, int(thing.size * thing.filled / 100) + units.MIB) if pool else 0
        items.append(Item(vdev, path, thing.kind, thing.size, group, taken[vdev], local, pool, used))
    base = origin.rpartition("/")[2]
    place = f"{vmfile.FOLDER}/{base}"
    if not vmfile.storable(place):
        place = f"{vmfile.FOLDER}/{vm}.cfg"
    return Plan(os.urandom(8).hex(), vm, old.host, origin, place, tuple(items))


def _check_free(made: Plan, known: Sequence[volumes.Volume], begun: bool) -> None:
    """No volume and no file of its names is here, but for what it made itself."""
    for volume in known:
        ours = begun and set(made.tags) <= set(volume.tags)
        if volume.path in [item.path for item in made.items] and not ours:
            raise Refused(
                f"{volume.path} exists, and this import didn't make it",
                "rename or remove it (`lvrename`, `lvremove`), or take another group: --volume-group",
            )
    if vmfile.read(made.config) is not None:
        raise Refused(
            f"{made.config} exists, and this import didn't make it", "move it away, or rename the one there"
        )


def _consider(
    request: Request,
    made: Plan,
    settings: config.Config,
    known: Sequence[volumes.Volume],
    groups: dict[str, volumes.Group],
) -> Considered:
    """What ``xenhelper replicate`` will find, once the volumes are there."""
    vm, rules = made.vm, consider.rules(settings)
    here = {volume.path: volume for volume in known}
    for item in made.items:
        volume = here.get(item.path) or _to_be(item)
        here[item.path] = replace(volume, tags=())
    facts = policy.Facts(tuple(here.values()), provision.vm_records(), {})
    if policy.excluded(vm, rules):
        return Considered(request, settings, (), {}, groups, "", room.pools(known))
    decisions = policy.decide(vm, request.parsed.disks, rules, facts)
    for one in policy.refusals(decisions):
        raise Refused(f"{vm}: disk {one.vdev}: {one.reason}", "take another volume group: --volume-group")
    peer = ""
    if any(one.action == policy.REPLICATE for one in decisions):
        peer = consider.peer_of(vm, request.peer, settings, decisions, {})
    return Considered(request, settings, tuple(decisions), {}, groups, peer, room.pools(known))


def _to_be(item: Item) -> volumes.Volume:
    """The volume of a disk that isn't here yet."""
    volume = volumes.Volume(item.group, item.name, item.local)
    if not item.pool:
        return volume
    filled = -(-item.used * 10000 // item.local)
    return replace(volume, kind=volumes.THIN, pool=item.pool, filled=filled)


def _resized(made: Plan, considered: Considered, extents: list[int]) -> tuple[Plan, Considered]:
    """Sizes in whole extents of the peer's groups, too: only so can they be replicated."""
    items = []
    for item in made.items:
        items.append(
            replace(item, local=plan.whole(item.local, [considered.groups[item.group].extent, *extents]))
        )
    sizes = {item.path: item.local for item in items}
    decisions = tuple(
        replace(one, volume=replace(one.volume, size=sizes[one.volume.path]))
        if one.volume is not None and one.volume.path in sizes
        else one
        for one in considered.decisions
    )
    return replace(made, items=tuple(items)), replace(considered, decisions=decisions)


def _check_room(made: Plan, known: Sequence[volumes.Volume], groups: dict[str, volumes.Group]) -> None:
    """Room here for what isn't made yet, its metadata as well."""
    here = {volume.path for volume in known}
    disks = []
    for item in made.items:
        more = 0 if item.path in here else item.used if item.pool else item.local
        disks.append((item.group, item.local, item.pool, more))
    room.check_own(room.Side(os.uname().nodename, groups, room.pools(known)), disks)


def _described(made: Plan, considered: Considered) -> list[str]:
    told = {
        one.vdev: f"replicated with {considered.peer}" if one.action == policy.REPLICATE else one.reason
        for one in considered.decisions
    }
    return plan.describe(made, told)


def there_now(old: far.Far, vm: str, wanted: Sequence[tuple[str, str]]) -> look.Seen:
    """The old server as it is now, the VM off. Raises Refused when it isn't."""
    sources = [path for _, path in wanted]
    deadline = time.monotonic() + _LEFT_BEHIND
    while True:
        seen = look.parse(old.ask(far.LOOK_AT, *sources), sources)
        if time.monotonic() > deadline or not any(thing.used.endswith("(dd)") for thing in seen.things):
            break
        time.sleep(2)
    plan.check_there(vm, seen, wanted, old.host)
    return seen
