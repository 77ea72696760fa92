"""Resources that an administrator made by hand for block-drbd: one host's part in their
becoming ours, and in their going back.

The data isn't written to, and no metadata is made anew. What changes is the file in /etc/drbd.d
that defines a resource, and the settings that it runs with, online. The old files are kept
below :data:`FOLDER`; undoing, and ``forget``, put them where they were.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from xenhelper import byhand, intents, log, names, paths, provision, replicate_peer, statefile, volumes
from xenhelper.drbd import bringup, resfile, resscan, show, verbs
from xenhelper.errors import Refused, XenhelperError
from xenhelper.plan import INTERNAL, Plan
from xenhelper.run import run

FOLDER = paths.STATE + "/handmade"
_LOCK_WAIT = 25.0
# seconds: drbdadm adjust of one resource, which may wait for its metadata
_ADJUST = 60.0


def serve_prepare(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``convert-prepare``: this host's part, after its own look. Asking twice does no
    harm."""
    plan = replicate_peer.plan_of(peer, args["plan"], takes_over=True)
    fd = intents.lock(plan.vm, wait=_LOCK_WAIT)
    try:
        intent = intents.read(provision.KIND, plan.vm)
        if intent is not None and (intent.get("id"), intent.get("peer")) != (plan.id, peer):
            raise Refused(f"{plan.vm} is being set up on {plan.host} at this moment", "try again")
        if intent is None:
            _check_here(plan)
            provision.begin(plan, provision.TARGET)
        take(plan)
        return {}
    finally:
        os.close(fd)


def _check_here(plan: Plan) -> None:
    """The plan against this host itself. Raises Refused."""
    running = replicate_peer.domains_of(plan.vm)
    if running:
        raise Refused(f"{plan.vm} runs on {plan.host} (as {running[0]})", f"`xl shutdown -w {plan.vm}` first")
    records = provision.vm_records()
    together = [disk.resource for disk in plan.fresh]
    for side in byhand.look(together):
        byhand.check_side(byhand.one(side, together), plan.vm)
        record = plan.record(next(disk for disk in plan.fresh if disk.resource == side.resource), "")
        wanted = (
            record["minor"],
            record["volume"],
            record["meta"],
            record["address"],
            record["peer_address"],
        )
        if (str(side.minor), side.volume, side.meta, side.local, side.remote) != wanted:
            raise Refused(f"{side.resource} on {plan.host} isn't what {plan.peer} takes it for")
        if side.resource in records:
            raise Refused(f"{side.resource} belongs to VM {records[side.resource].get('vm')} already")
    check_place(plan)


def check_place(plan: Plan) -> None:
    """Our file can stand where it belongs. Raises Refused."""
    text, path = resfile.read(plan.vm), resfile.path(plan.vm)
    if text is None or text == plan.resource_file_before():
        return
    fresh = {disk.resource for disk in plan.fresh}
    if set(byhand.defined().get(os.path.basename(path), ())) <= fresh:
        return
    raise Refused(f"{path} on {plan.host} isn't about {plan.vm}'s disks", "move it away there")


def take(plan: Plan) -> None:
    """Our file in the place of the old ones, which are kept; the running resources follow, and
    their volumes get our tags. Running it again goes on.

    Precondition: begin(). Raises XenhelperError; then undo() is due.
    """
    provision.require_able()
    own = os.path.basename(resfile.path(plan.vm))
    for name in _keep(plan):
        if name != own:
            statefile.remove(f"{paths.DRBD_D}/{name}")
    statefile.write_atomically(resfile.path(plan.vm), plan.resource_file().encode())
    bringup.adm(plan.vm, "sh-nop")
    for disk in plan.fresh:
        bringup.mark_minor(disk.minor)
        bringup.adm(plan.vm, "adjust", disk.resource, timeout=_ADJUST)
        _register(disk.minor, resfile.path(plan.vm))
        _check_settings(plan, disk.resource)
        tags = volumes.tags_for(plan.vm, disk.resource, disk.minor, disk.port)
        record = plan.record(disk, "")
        volumes.change_tags(record["volume"], add=tags)
        if record["meta"] != INTERNAL:
            volumes.change_tags(record["meta"], add=(*tags, volumes.META_TAG))


def _keep(plan: Plan) -> list[str]:
    """Copies of the files that define the plan's resources, as they were; their names."""
    fresh = {disk.resource for disk in plan.fresh}
    before = kept(plan.vm)
    for name, defines in byhand.defined().items():
        path = f"{paths.DRBD_D}/{name}"
        with open(path, "rb") as file:
            data = file.read(resscan.MAX_FILE)
        ours = resfile.is_ours(data.decode("utf-8", "replace"), plan.vm)
        if name not in before and not ours and fresh & set(defines):
            if len(data) == resscan.MAX_FILE:
                raise Refused(f"{path} on {plan.host} is larger than {resscan.MAX_FILE >> 20} MiB")
            mode = os.stat(path).st_mode & 0o777
            statefile.write_atomically(f"{FOLDER}/{plan.vm}/{name}", data, mode)
    return kept(plan.vm)


def kept(vm: str) -> list[str]:
    """Names of the files that are kept for ``vm``."""
    return statefile.names(f"{FOLDER}/{names.check_vm(vm)}")


def require_kept(vm: str, resources: Iterable[str]) -> None:
    """Raises Refused when the file that one of them had before is nowhere on this host (its dom0
    was reinstalled, say): without it there is nothing to go back to."""
    found = {word for name in kept(vm) for word in byhand.heads(f"{FOLDER}/{vm}/{name}")}
    own = os.path.basename(resfile.path(vm))
    text = resfile.read(vm)
    for name, words in byhand.defined().items():
        if name != own or text is None or not resfile.is_ours(text, vm):
            found.update(words)
    for resource in resources:
        if resource not in found:
            raise Refused(
                f"the file that defined {resource} before {vm} was converted isn't on {os.uname().nodename} "
                "any more",
                f"put it into {FOLDER}/{vm} there; the other host's is there, and mostly the same",
            )


def _register(minor: int, path: str) -> None:
    """Which file the kernel's handlers find a minor by; '' for the default (registry.c)."""
    link = f"{paths.ROOT}/run/drbd/drbd-minor-{minor}.conf"
    try:
        if os.path.lexists(link):
            os.unlink(link)
        if path:
            os.symlink(path, link)
    except OSError as error:
        log.event("note", f"{link}: {error}", log.WARNING)


def _check_settings(plan: Plan, resource: str) -> None:
    """drbdadm says nothing of what it leaves as it was. Raises XenhelperError."""
    runs = show.one(resource)
    if (
        runs is None
        or (runs.protocol, runs.two_primaries, runs.fencing) != (plan.protocol, False, "resource-only")
        or not runs.volume
    ):
        shown = f"protocol {runs.protocol}, fencing {runs.fencing}" if runs is not None else "not up"
        raise XenhelperError(f"{resource} on {plan.host} hasn't taken the new settings ({shown})")


def undo(plan: Plan) -> None:
    """All as it was before :func:`take`, however far that came. Raises XenhelperError."""
    give_back(plan.vm, {disk.resource: disk.minor for disk in plan.fresh}, plan.resource_file_before() or "")
    known = {volume.path: volume for volume in volumes.volumes()}
    for disk in plan.fresh:
        record = plan.record(disk, "")
        mine = [known.get(record[key]) for key in ("meta", "volume")]
        untag(*(volume for volume in mine if volume and volume.tag("resource") == disk.resource))


def untag(*found: volumes.Volume | None) -> None:
    """Take our tags off; the volumes stay."""
    for volume in found:
        if volume is not None:
            drop = [tag for tag in volume.tags if tag.startswith("xenhelper.")]
            volumes.change_tags(volume.path, drop=drop)


def give_back(vm: str, minors: Mapping[str, int], before: str = "") -> None:
    """The kept files of these resources (name -> minor) where they were; they run as those say.

    ``before``: our own file's text without them. Running it again goes on. Raises
    XenhelperError.
    """
    # another disk of the VM may have been taken over before, and stay so
    found = [name for name in kept(vm) if set(byhand.heads(f"{FOLDER}/{vm}/{name}")) & set(minors)]
    own = os.path.basename(resfile.path(vm))
    text = resfile.read(vm)
    if text is not None and resfile.is_ours(text, vm):
        if before:
            statefile.write_atomically(resfile.path(vm), before.encode())
        elif own not in found:
            statefile.remove(resfile.path(vm))
    for name in found:
        _put_back(vm, name)
    for resource, minor in minors.items():
        _register(minor, "")
        _follow(resource)
        statefile.remove(f"{paths.RUN}/minors/{minor}")
    for name in found:
        statefile.remove(f"{FOLDER}/{vm}/{name}")
    for folder in (f"{FOLDER}/{vm}", FOLDER):
        try:
            os.rmdir(folder)
        except OSError:
            break


def _put_back(vm: str, name: str) -> None:
    saved, path = f"{FOLDER}/{vm}/{name}", f"{paths.DRBD_D}/{name}"
    with open(saved, "rb") as file:
        data = file.read()
    try:
        with open(path, "rb") as file:
            there = file.read()
    except FileNotFoundError:
        there = data
    if there != data and not resfile.is_ours(there.decode("utf-8", "replace"), vm):
        raise Refused(
            f"{path} has been made anew since {vm} was converted; its old text is in {saved}",
            "move the new one away, then try again",
        )
    statefile.write_atomically(path, data, os.stat(saved).st_mode & 0o777)


def _follow(resource: str) -> None:
    """Run as the administrator's own files say, common sections and all."""
    runs = show.one(resource)
    if runs is not None and runs.protocol != "C" and runs.local and runs.remote:
        # fencing resource-and-stonith, or two Primaries, don't go with A (drbd_nl.c)
        verbs.net_options(runs.local, runs.remote, "C", False)
    run(["drbdadm", "adjust", resource], timeout=_ADJUST)
