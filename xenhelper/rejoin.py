"""``xenhelper replicate VM --from-peer``: this host lost its half of a VM, the peer has all.

A disk of the host died, say, and its volume group was made anew. Volumes that aren't there
any more are created, with fresh metadata, so that DRBD copies everything from the peer;
whatever volume is there already is left alone, and refused if it is in the way. Until it
is committed, the ``replicate`` intent undoes it: only what this run made goes.
"""

import os
from collections.abc import Mapping
from dataclasses import replace

from xenhelper import (
    config,
    described,
    intents,
    log,
    names,
    plan,
    provision,
    rebuild,
    replicate_peer,
    room,
    statefile,
    units,
    volumes,
)
from xenhelper.drbd import adm, events, proc, resfile
from xenhelper.errors import Refused, XenhelperError

# seconds for both hosts to find each other: DRBD tries every 10 (connect-int)
_CONNECTS = 25.0


def run(vm: str, dry: bool = False) -> list[str]:
    """Make what is lost of ``vm`` on this host; what was (or would be) done, a line each.

    Raises Refused when nothing is lost, the peer's copy isn't a good one, or something is
    in the way; XenhelperError: then nothing is left of what was begun, unless it says so.
    """
    settings = config.load()
    config.check_name(settings, os.uname().nodename)
    fd = intents.lock(names.check_vm(vm), who="replicate --from-peer")
    try:
        if not dry:
            replicate_peer.recover(vm, held=True)
        described.unhindered(vm)
        running = replicate_peer.domains_of(vm)
        if running:
            raise Refused(f"{vm} runs here (as {running[0]})", "`xl shutdown` or `xl migrate` it first")
        told = described.by_peers(settings, vm)
        # a group that was just made has no volume yet
        known, groups = volumes.facts(*(disk.group for disk in told.plan.disks))
        here = lost(told.plan, settings, known, groups)
        _check(here, told.states, groups)
        here, said = placed(here, room.Side(settings.host, groups, room.pools(known)), told.thin)
        lines = [
            f"{disk.resource}: /dev/{disk.group}/{disk.name} of {units.size(disk.size)}"
            f"{said.get(disk.resource, '')}"
            for disk in here.fresh
        ]
        if dry:
            return [f"would make {line} and fill it from {here.peer}" for line in lines]
        for name, text in said.items():
            log.event("note", f"{name}{text}", vm=vm, resource=name)
        _make(here)
        provision.commit_intent(here, provision.TARGET)
        provision.write_records(here)
        note = described.store_config(told)
        provision.done(here)
        _connected(here)
        return [f"{line} is filled from {here.peer} now{note}" for line in lines]
    finally:
        os.close(fd)


def lost(
    here: plan.Plan,
    settings: config.Config,
    known: list[volumes.Volume],
    groups: Mapping[str, volumes.Group],
) -> plan.Plan:
    """The VM's plan, those disks fresh whose volumes aren't there (pure). Raises Refused when
    one of two is, none is missing, or the configuration gives one no place here."""
    places = settings.peer(here.peer).volume_groups
    there = {volume.full_name for volume in known}
    disks = []
    for disk in here.disks:
        if disk.taken:
            _require_there(disk, here.peer, there)
            disks.append(disk)
            continue
        both = [f"{disk.group}/{disk.name}", f"{disk.group}/{disk.meta_name}"]
        found = [name for name in both if name in there]
        if len(found) == 1:
            raise Refused(
                f"{disk.resource}: /dev/{found[0]} is here, and its other half isn't: it is left alone",
                "if the other host's copy is the one to keep, rename it (`lvrename`), then again",
            )
        if found:
            disks.append(disk)
            continue
        if places.get(disk.group) != disk.peer_group:
            raise Refused(
                f"{settings.host}'s configuration gives {here.peer}'s {disk.peer_group} no place in volume "
                f"group {disk.group}",
                f"`xenhelper setup {here.peer} --volume-group {disk.group}={disk.peer_group}`",
            )
        if disk.group not in groups:
            raise Refused(f"{settings.host} has no volume group {disk.group}", "make it, then again")
        meta = volumes.meta_bytes(disk.size, groups[disk.group].extent)
        # what the peer has of metadata isn't made by this plan
        disks.append(replace(disk, fresh=True, meta_size=meta, peer_meta_size=meta))
    if not any(disk.fresh for disk in disks):
        raise Refused(
            f"{here.vm}: no volume of it is missing on {settings.host}",
            "`xenhelper status` shows what ails it; `xenhelper reconcile --from-volumes` brings files back",
        )
    return replace(here, disks=tuple(disks))


def placed(
    here: plan.Plan, side: room.Side, thin: Mapping[str, tuple[str, int]]
) -> tuple[plan.Plan, dict[str, str]]:
    """The plan with the pools that its fresh disks go to, and what is to be said of those that
    are ``thin`` on the peer (their pool there and the bytes they take up), by resource (pure).
    Raises Refused when there isn't room."""
    lost_ = []
    for disk in here.fresh:
        pool, used = thin.get(disk.resource, ("", disk.size))
        step = disk.knobs.rs_discard_granularity
        lost_.append(room.Lost(disk.resource, disk.group, disk.size, pool, used, step))
    made, said = {}, {}
    for disk, (pool, meta_pool, why) in zip(here.fresh, room.again(side, lost_), strict=True):
        made[disk.resource] = replace(disk, pool=pool, meta_pool=meta_pool)
        if pool:
            said[disk.resource] = f", thin, in pool {disk.group}/{pool}"
        elif why:
            said[disk.resource] = f", an ordinary volume, not thin as on {here.peer}: {why}"
    return replace(here, disks=tuple(made.get(disk.resource, disk) for disk in here.disks)), said


def _require_there(disk: plan.Disk, peer: str, there: set[str]) -> None:
    """What was made by hand is made anew by hand. Raises Refused."""
    for path in (f"/dev/{disk.group}/{disk.name}", disk.meta):
        if path != plan.INTERNAL and path.removeprefix("/dev/") not in there:
            raise Refused(
                f"{disk.resource} was made by hand before it was converted, and {path} is lost",
                f"make it by hand, of the same size; `drbdadm create-md {disk.resource}` and `drbdadm up "
                f"{disk.resource}` let {peer} fill it",
            )


def _check(here: plan.Plan, there: Mapping[str, str], groups: Mapping[str, volumes.Group]) -> None:
    states = events.snapshot()
    for disk in here.fresh:
        copy = there.get(disk.resource, "unknown")
        if copy != events.UP_TO_DATE:
            raise Refused(
                f"{disk.resource}: {here.peer}'s copy is {copy}, not a good one",
                f"`xenhelper status` on {here.peer}; `xenhelper takeover` there if it is all that is left",
            )
        if disk.size % groups[disk.group].extent:
            raise Refused(
                f"{disk.resource}: {disk.size} bytes are no whole number of {disk.group}'s extents here",
                f"`vgchange -s` gives {disk.group} smaller ones",
            )
        state = states.get(disk.resource)
        if state is not None and state.disk not in ("Diskless", "Failed"):
            raise Refused(
                f"{disk.resource} is up here and has a disk ({state.disk})", "see `xenhelper status`"
            )
    rebuild.check_numbers(here)
    text = resfile.read(here.vm)
    if text is not None and not resfile.is_ours(text, here.vm):
        raise Refused(f"{resfile.path(here.vm)} isn't xenhelper's", "move it away, then again")


def _make(here: plan.Plan) -> None:
    """Volumes, file, metadata, and up: undone if anything fails."""
    provision.require_able()
    provision.begin(here, provision.TARGET)
    try:
        for disk in here.fresh:
            adm.down(disk.resource, disk.minor)  # it may be up without its disk
        provision.make_volumes(here, provision.TARGET)
        statefile.write_atomically(resfile.path(here.vm), here.resource_file().encode())
        for disk in here.fresh:
            meta = f"/dev/{disk.group}/{disk.meta_name}"
            volumes.zero_start(meta)
            adm.create_md(disk.minor, meta)
        adm.up(here.vm, rebuild.down(here))
    except BaseException:
        provision.undo(here.vm, here.id)
        raise


def _connected(here: plan.Plan) -> None:
    """Raises XenhelperError when the peer isn't there to fill it."""
    by_minor = {disk.minor: disk.resource for disk in here.fresh}
    missing = proc.wait_connected(list(by_minor), _CONNECTS)
    if missing:
        raise XenhelperError(
            f"{by_minor[missing[0]]} is made, and doesn't connect to {here.peer} yet",
            "look at the replication link: it is filled by itself once both are connected",
        )
