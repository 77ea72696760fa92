"""The whole of ``xenhelper import``, each step such that the same command goes on behind it.

The intent is there before anything is made; the volumes bear its tags until they are whole;
the config is the last thing to come, so that nothing can be started before. What follows is
what ``xenhelper replicate`` does. Nothing is ever written on the old server.
"""

import os
from collections.abc import Callable

from xenhelper import create, intents, log, names, paths, provision, replicate, statefile, vmfile, volumes
from xenhelper.errors import Refused, UsageError, XenhelperError
from xenhelper.importing import far, find, plan, sums, whole
from xenhelper.importing.plan import Plan
from xenhelper.xen import vmconfig

COPYING, PLACED = "copying", "placed"
Say = Callable[[str], None]


def run(wish: find.Wish, say: Say, dry: bool = False) -> None:
    """Import what ``wish`` names, or go on with it; ``say`` gets what was (or would be) done.

    Raises XenhelperError: what is here by then stays, tagged, and the same command goes on.
    """
    old = far.Far(wish.host)
    vm = wish.vm or _begun(wish)
    if vm and (intents.read(find.KIND, names.check_vm(vm)) or {}).get("state") == PLACED:
        # nothing is needed of the old server any more
        if dry:
            say(f"replicate {vm}, which is here, whole")
        else:
            _finish(vm, wish.peer, say)
        return
    origin, text, parsed = find.read(old, wish)
    vm = names.check_vm(parsed.name)
    if dry:
        for line in find.decide(old, wish, origin, text, parsed).lines:
            say(line)
        return
    fd = intents.lock(vm, who="import")
    try:
        found = find.decide(old, wish, origin, text, parsed)
        for line in found.lines:
            say(line)
        _carry_out(old, wish, found, say)
    finally:
        os.close(fd)
    if origin.rpartition("/")[2] in found.seen.auto:
        say(f"{old.host} starts {vm} at boot: take its link out of /etc/xen/auto there")
    _finish(vm, wish.peer, say)


def _begun(wish: find.Wish) -> str:
    """The VM whose import was begun by this very command; '' when none was."""
    for intent in intents.all_open():
        if intent.get("kind") == find.KIND and intent.get("asked") == _asked(wish):
            return intent["vm"]
    return ""


def _asked(wish: find.Wish) -> str:
    return " ".join([wish.host, *wish.paths])


def _carry_out(old: far.Far, wish: find.Wish, found: find.Found, say: Say) -> None:
    """Precondition: the VM's lock is held. Afterwards everything is here, and proven."""
    made = found.plan
    state = {"id": made.id, "source": made.host, "asked": _asked(wish), "again": wish.again}
    intents.write(find.KIND, made.vm, state=COPYING, plan=made.to_json(), **state)
    log.event("note", f"{made.vm}: import from {made.host}", vm=made.vm, intent=f"{find.KIND}-{made.vm}")
    have = {volume.path for volume in volumes.volumes()}
    for item in made.items:
        if item.path not in have:
            statefile.remove(whole.file(made, item, "sums"))  # of one that somebody removed meanwhile
            volumes.create(item.group, item.name, item.local, made.tags, item.pool)
    digests = whole.bring(old, made, wish.limit, found.seen)
    for item in made.items:
        say(f"{item.vdev}: the same on both hosts, sha256 {digests[item.vdev]}")
    statefile.write_atomically(_kept(made.vm), vmconfig.to_bytes(found.text))
    intents.write(find.KIND, made.vm, state=PLACED, plan=made.to_json(), **state)


def _kept(vm: str) -> str:
    """The config as it will be here, until it is."""
    return f"{sums.folder(vm)}/config"


def _finish(vm: str, peer: str, say: Say) -> None:
    """Everything is here: the config comes, the volumes are like any other, and are replicated.

    Raises XenhelperError: the same command goes on.
    """
    fd = intents.lock(vm, who="import")
    try:
        intent = intents.read(find.KIND, vm)
        if intent is None:
            return
        made = plan.from_json(intent["plan"])
        if not vmfile.record(vm):
            _place(made, say)
    finally:
        os.close(fd)
    if not _settled(made):
        _replicate(made, peer, say)
    _clear(made)
    log.event("note", f"{vm}: imported from {made.host}", log.NOTICE, vm=vm, intent=f"{find.KIND}-{vm}")
    say(f"{vm} is imported: `xl create {made.config}`; don't start it on {made.host} any more")


def _settled(made: Plan) -> bool:
    """Whether a create came first: its disks are replicated, both hosts agree on its config."""
    record, text = vmfile.record(made.vm), vmfile.read(made.config)
    known = record.get("config"), record.get("sha256")
    return (
        text is not None
        and known == (made.config, vmconfig.checksum(text))
        and intents.read(provision.KIND, made.vm) is None
    )


def _replicate(made: Plan, peer: str, say: Say) -> None:
    try:
        outcome = replicate.run(create.request_for(made.config, [], peer))
    except XenhelperError:
        say(f"{made.vm} is here, whole, with {made.config}; it isn't replicated yet:")
        raise
    for disk in outcome.fresh:
        say(f"{disk.vdev}: replicated with {outcome.found.peer} as {disk.resource}, first sync runs")


def _place(made: Plan, say: Say) -> None:
    kept = vmconfig.read_file(_kept(made.vm).removeprefix(paths.ROOT))
    text = vmfile.read(made.config)
    if text is None:
        vmfile.store(made.config, kept, 0o600)
    elif text != kept:
        say(f"{made.config} is there already and stays as it is")
    for volume in volumes.volumes():
        if volume.path in [item.path for item in made.items] and made.tags[0] in volume.tags:
            volumes.change_tags(volume.path, drop=made.tags)


def _clear(made: Plan) -> None:
    for item in made.items:
        statefile.remove(whole.file(made, item, "sums"))
        statefile.remove(whole.file(made, item, "mark"))
    statefile.remove(_kept(made.vm))
    try:
        os.rmdir(sums.folder(made.vm))
    except OSError:
        pass  # was never made
    intents.remove(find.KIND, made.vm)


def undo(vm: str, dry: bool = False) -> list[str]:
    """Give up an import that isn't finished: its volumes here go. What was (or would be) done.

    Raises UsageError when there is none, Refused once everything is here.
    """
    fd = intents.lock(names.check_vm(vm), who="import --undo")
    try:
        intent = intents.read(find.KIND, vm)
        if intent is None:
            raise UsageError(f"no import of {vm} is unfinished on this host", "`xenhelper status` shows them")
        made = plan.from_json(intent["plan"])
        if intent.get("state") == PLACED:
            raise Refused(
                f"{vm} is here, whole, and only its replication isn't finished",
                f"`{intent.get('again', 'xenhelper import')}` finishes it",
            )
        gone = [volume for volume in volumes.volumes() if set(made.tags) <= set(volume.tags)]
        if not dry:
            for volume in gone:
                volumes.remove(volume, *made.tags)
            _clear(made)
            log.event("note", f"{vm}: import from {made.host} given up", vm=vm, intent=f"{find.KIND}-{vm}")
        return [f"remove {volume.path}" for volume in gone] + [f"nothing changes on {made.host}"]
    finally:
        os.close(fd)
