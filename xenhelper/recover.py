"""``xenhelper recover VM --discard HOST``: end a split brain by giving up one side's writes.

Exactly the named side, after a person said so; that side mustn't be in use, and where
the volume group has room a snapshot keeps what is given up. Each step can be taken
again: after an interruption the same command finishes, and nothing else goes on by itself.
"""

import os
import time
from collections.abc import Callable

from xenhelper import intents, log, names, paths, room, splitbrain, statefile, volumes
from xenhelper.drbd import bringup, events, verbs
from xenhelper.errors import CommandFailed, PeerUnreachable, Refused, UsageError, XenhelperError
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

_CONNECT = 30.0  # seconds for both to find each other
_MARGIN = 64 << 20

Records = list[dict[str, str]]
Story = dict[str, object]


def run(
    vm: str,
    discard: str,
    dry_run: bool,
    say: Callable[[str], None],
    confirm: Callable[[str], bool],
) -> None:
    """Give up what ``discard`` wrote to ``vm``'s disks. Raises Refused, XenhelperError."""
    records = records_of(vm)
    if not records:
        raise Refused(f"{vm}: no replicated VM on this host", "`xenhelper status` lists them")
    host, peer = records[0]["host"], records[0]["peer"]
    if discard not in (host, peer):
        raise UsageError(f"{vm}'s disks are on {host} and {peer}, not on {discard[:80]}")
    fd = intents.lock(names.check_vm(vm), wait=15.0, who="recover")
    try:
        resumed = intents.read("recover", vm)
        if resumed is not None and resumed.get("discard") != discard:
            raise Refused(
                f"{vm}: giving up {resumed.get('discard')}'s side has begun and can't be turned round",
                f"`xenhelper recover {vm} --discard {resumed.get('discard')}`",
            )
        split = _split(records, peer, resumed is not None, say)
        if not split:
            raise Refused(f"{vm}: no split brain", "`xenhelper reconcile` connects what is only apart")
        _discard(vm, split, discard, host, peer, dry=True)
        if dry_run:
            say(f"would give up what {discard} wrote")
            return
        if resumed is None and not confirm(f"Everything that {discard} wrote since is given up."):
            raise Refused(f"{vm}: nothing was done")
        _act(vm, split, discard, host, peer, say)
    finally:
        os.close(fd)


def _act(vm: str, split: list[str], discard: str, host: str, peer: str, say: Callable[[str], None]) -> None:
    from xenhelper.peer import client

    intents.write("recover", vm, discard=discard, peer=peer, resources=",".join(split))
    for line in _discard(vm, split, discard, host, peer, dry=False):
        say(line)
    if discard == host:
        client.ask(peer, "recover-connect", {"vm": vm, "resources": split}, timeout=60.0)
    else:
        connect(vm, split)
    _wait(vm, split, discard, host)
    client.ask(peer, "recover-end", {"vm": vm}, timeout=10.0)
    end(vm)
    text = f"{vm}: {discard}'s side given up"
    log.event("split-brain", text, log.NOTICE, vm=vm, intent=f"recover-{vm}")
    say(f"{vm}: {discard} now syncs from {peer if discard == host else host}")


def records_of(vm: str) -> Records:
    """The VM's resources on this host."""
    found = (statefile.read(f"{paths.RESOURCES}/{name}") for name in statefile.names(paths.RESOURCES))
    return [record for record in found if record and record.get("vm") == vm]


def _split(records: Records, peer: str, resumed: bool, say: Callable[[str], None]) -> list[str]:
    """The VM's resources that are apart by a split brain, their story told."""
    split = []
    for record in records:
        name = record["resource"]
        state = events.one(name)
        if state is not None and state.connected:
            continue
        mine = splitbrain.story(name, record)
        try:
            theirs = splitbrain.ask_story(peer, name)
        except PeerUnreachable as error:
            raise Refused(
                f"{name}: {peer} must answer to end a split brain: {error.what}",
                f"bring {peer} back first",
            ) from error
        a, b = splitbrain.uuids_of(mine), splitbrain.uuids_of(theirs)
        how = splitbrain.compare(a, b) if a and b else ""
        say(f"{name}:\n  {splitbrain.tell(mine)}\n  {splitbrain.tell(theirs)}")
        if how == splitbrain.UNRELATED:
            raise Refused(
                f"{name}: both copies have nothing in common, so DRBD can't sync one from the other",
                f"on the host whose copy goes: `drbdadm down {name}`, `drbdadm create-md {name}`, "
                f"`xenhelper reconcile`",
            )
        if how == splitbrain.SPLIT or resumed:
            split.append(name)
    return split


def _discard(vm: str, split: list[str], discard: str, host: str, peer: str, dry: bool) -> list[str]:
    if discard == host:
        return give_up(vm, split, dry)
    from xenhelper.peer import client

    answer = client.ask(
        peer, "recover-discard", {"vm": vm, "resources": split, "dry": dry, "snapshot": True}, timeout=120.0
    )
    lines = answer.get("lines")
    return [str(line) for line in lines] if isinstance(lines, list) else []


def give_up(vm: str, split: list[str], dry: bool) -> list[str]:
    """On the side that gives up: look that nobody uses it, keep a snapshot, then offer to
    become the sync target. Returns what was done. Raises Refused."""
    host = os.uname().nodename
    running = [domain.name for domain in domains.find(vm)]
    if running:
        raise Refused(
            f"{running[0]} runs on {host}, whose side is to be given up", f"`xl shutdown {running[0]}`"
        )
    with Xenstore() as store:
        for name in split:
            users = [user or str(domid) for domid, user in domains.users_of(store, name)]
            if users:
                raise Refused(f"{name} is in use on {host} by {', '.join(users)}", "stop that first")
    states = {name: events.one(name) for name in split}
    for name, state in states.items():
        if state is None:
            raise Refused(f"{name} isn't up on {host}", f"`xenhelper reconcile` on {host}")
        if dry and state.role == events.PRIMARY and verbs.holder(state.minor).startswith(("mount", "device")):
            raise Refused(f"{name} is in use on {host}: {verbs.holder(state.minor)}", "let it go")
    if dry:
        return []
    intent = intents.read("recover", vm) or {}
    lines = []
    for name, state in states.items():
        assert state is not None
        if state.connected:
            continue
        if state.role == events.PRIMARY:
            verbs.secondary(state.minor, 10.0, name=name)
        lines.append(snapshot(name, intent.get("since", "")))
        if state.connection != "StandAlone":
            bringup.adm(vm, "disconnect", name)
        bringup.adm(vm, "connect", "--discard-my-data", name)
    return lines


def snapshot(name: str, since: str) -> str:
    """Keep the volume of ``name`` as it is now, once per split brain, if there is room.
    Returns a line that says which. A snapshot that overflows later spoils itself only; a thin
    one takes from its pool what the resync changes, which spoils all volumes of a full pool."""
    record = statefile.read(f"{paths.RESOURCES}/{name}") or {}
    tag = f"xenhelper.discarded={names.check_resource(name)}/{since}"
    known, groups = volumes.facts()
    for volume in known:
        if tag in volume.tags:
            return f"{name}: kept as {volume.path}"
    origin = volumes.resolve(record.get("volume", ""), known)
    if origin is None:
        return f"{name}: no snapshot: {record.get('volume')} is no logical volume"
    state = events.one(name)
    group = groups[origin.group]
    most = origin.size + group.extent  # more than the whole volume never changes
    least = min(most, 2 * (state.out_of_sync if state else origin.size) + _MARGIN)
    size, where, free = min(most, group.free // group.extent * group.extent), origin.group, group.free
    if origin.pool:
        pool = room.pools(known).get(origin.group, {}).get(origin.pool)
        where, free = f"pool {origin.group}/{origin.pool}", pool.free if pool is not None else 0
        changes = state.out_of_sync if state else origin.size
        # each block of 4 KiB may have a chunk of the pool copied, once
        chunks = changes // 4096 * (pool.chunk if pool is not None else 0)
        size, least = free, min(changes + origin.used, chunks) + _MARGIN
    if size < least:
        return f"{name}: no snapshot: {where} has {free >> 20} MiB free, too few"
    label = f"{origin.name}_discarded_{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    if not volumes.valid_name(label):
        return f"{name}: no snapshot: {label} is too long a name"
    try:
        volumes.snapshot(origin, label, size, tag)
    except CommandFailed as error:
        return f"{name}: no snapshot: {error}"
    return f"{name}: kept as /dev/{origin.group}/{label} (`lvremove` it when nobody misses anything)"


def connect(vm: str, split: list[str]) -> None:
    """On the side that stays: connect again where DRBD gave up."""
    for name in split:
        state = events.one(name)
        if state is not None and state.connection == "StandAlone":
            bringup.adm(vm, "connect", name)


def _wait(vm: str, split: list[str], discard: str, host: str) -> None:
    deadline = time.monotonic() + _CONNECT
    while True:
        states = {name: events.one(name) for name in split}
        apart = [name for name, state in states.items() if state is None or not state.connected]
        if not apart:
            return
        if time.monotonic() > deadline:
            raise XenhelperError(
                f"{vm}: {', '.join(apart)} doesn't connect ({states[apart[0]]})",
                f"look at the link, then `xenhelper recover {vm} --discard {discard}` again",
            )
        for name in apart:
            state = states[name]
            if state is not None and state.connection == "StandAlone":
                if discard == host:
                    bringup.adm(vm, "connect", "--discard-my-data", name)
                else:
                    bringup.adm(vm, "connect", name)
        time.sleep(1.0)


def end(vm: str) -> None:
    """Over: the marks and the intent go."""
    intent = intents.read("recover", vm) or {}
    for name in filter(None, intent.get("resources", "").split(",")):
        splitbrain.clear(names.check_resource(name))
    intents.remove("recover", vm)


def _checked(peer: str, args: "dict[str, object]") -> tuple[str, list[str]]:
    vm = names.check_vm(str(args["vm"]))
    split = [names.check_resource(str(name)) for name in list(args["resources"])]  # type: ignore[call-overload]
    for name in split:
        record = statefile.read(f"{paths.RESOURCES}/{name}")
        if record is None or record.get("peer") != peer or record.get("vm") != vm:
            raise Refused(f"{name}: not a disk of {vm} shared with {peer}")
    return vm, split


def serve_discard(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``recover-discard``: a person at ``peer`` gives up this host's side."""
    vm, split = _checked(peer, args)
    fd = intents.lock(vm, wait=10.0, who="recover")
    try:
        dry = bool(args["dry"])
        if not dry:
            intents.write("recover", vm, discard=os.uname().nodename, peer=peer, resources=",".join(split))
        return {"lines": give_up(vm, split, dry)}
    finally:
        os.close(fd)


def serve_connect(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``recover-connect``: ``peer`` gives up its side; this one stays."""
    vm, split = _checked(peer, args)
    fd = intents.lock(vm, wait=10.0, who="recover")
    try:
        intents.write("recover", vm, discard=peer, peer=peer, resources=",".join(split))
        connect(vm, split)
        return {}
    finally:
        os.close(fd)


def serve_end(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``recover-end``: both sides are one again."""
    vm = names.check_vm(args["vm"])
    intent = intents.read("recover", vm)
    if intent is not None and intent.get("peer") == peer:
        end(vm)
    return {}
