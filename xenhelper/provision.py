"""What one host does to set a plan up, finish it or undo it; the same code at both ends.

Every step is covered by the host's own replicate intent, which was written before it:
``state=open`` is undone, ``state=committed`` is finished. Undoing removes only what the
intent lists and what bears this run's tag. Plans here are seen from this host.
"""

import json
import os
import time

from xenhelper import intents, lease, log, paths, statefile, volumes
from xenhelper.drbd import adm, bringup, proc, resfile, verbs
from xenhelper.errors import Refused, XenhelperError
from xenhelper.plan import Plan, from_json
from xenhelper.tuning import apply, publish

SOURCE, TARGET = "source", "target"
OPEN, COMMITTED = "open", "committed"
KIND = "replicate"
# seconds for one step that no guest waits for: a host may have twenty of these at once
PATIENCE = 60.0


def reserve(plan: Plan, role: str, token: str) -> None:
    """Write the intent that reserves the plan's numbers, and let go of this host's lease.

    Raises XenhelperError when the lease has run out: the numbers may be taken by now.
    """
    with lease.used(token):
        begin(plan, role)


def begin(plan: Plan, role: str) -> None:
    """Write the intent of a plan whose numbers are its own already."""
    _write(plan, role, OPEN)


def commit_intent(plan: Plan, role: str) -> None:
    """From here on the plan is finished, not undone, whatever happens."""
    _write(plan, role, COMMITTED)


def _write(plan: Plan, role: str, state: str) -> None:
    text = json.dumps(plan.to_json(), separators=(",", ":"))
    intents.write(KIND, plan.vm, id=plan.id, role=role, state=state, peer=plan.peer, plan=text)


def require_able() -> None:
    """Whether a new resource can be made on this host at all. Raises Refused."""
    proc.require_module()
    require_writable()


def require_writable() -> None:
    """Whether a replication's files and volumes can be changed on this host. Raises Refused."""
    statefile.require_writable(paths.STATE, paths.DRBD_D, paths.LVM)


def build(plan: Plan, role: str) -> list[str]:
    """Volumes, resource file, metadata, and the resources up. Returns warnings.

    Precondition: reserve(). Raises XenhelperError; then undo() is due.
    """
    proc.require_module()
    existing = resfile.read(plan.vm)
    if existing is not None and existing != plan.resource_file_before():
        raise Refused(
            f"{resfile.path(plan.vm)} exists and isn't what xenhelper wrote for {plan.vm}",
            "move it away, or rename the VM",
        )
    make_volumes(plan, role)
    warning = _write_resource_file(plan, existing is None)
    for disk in plan.fresh:
        meta = f"/dev/{disk.group}/{disk.meta_name}"
        volumes.zero_start(meta)
        adm.create_md(disk.minor, meta)
    adm.up(plan.vm, {disk.resource: disk.minor for disk in plan.fresh})
    return [warning] if warning else []


def make_volumes(plan: Plan, role: str) -> None:
    """Data (on the target) and metadata volumes of the plan, tagged by its run."""
    for disk in plan.fresh:
        tags = volumes.tags_for(plan.vm, disk.resource, disk.minor, disk.port, plan.id)
        if role == TARGET:
            volumes.create(disk.group, disk.name, disk.size, tags, disk.pool)
        volumes.create(disk.group, disk.meta_name, disk.meta_size, tags, disk.meta_pool)


def _write_resource_file(plan: Plan, first: bool) -> str:
    """Put the file in place once drbdadm has read it; returns a warning or ''."""
    path, text = resfile.path(plan.vm), plan.resource_file()
    warning = ""
    if first:
        # beside the others, where drbd.conf's *.res doesn't see it
        trial = f"{paths.DRBD_D}/.{plan.vm}.res.{plan.id}"
        statefile.write_atomically(trial, text.encode())
        try:
            warning = adm.check(plan.vm, trial)
        finally:
            statefile.remove(trial)
    statefile.write_atomically(path, text.encode())
    if not first:
        bringup.adm(plan.vm, "sh-nop")
    return warning


def tag_data(plan: Plan) -> None:
    """Say on the source's data volumes what they are for (their bytes aren't touched)."""
    for disk in plan.fresh:
        tags = volumes.tags_for(plan.vm, disk.resource, disk.minor, disk.port)
        volumes.change_tags(f"/dev/{disk.group}/{disk.name}", add=tags)


def promote_once(plan: Plan, seconds: float) -> None:
    """Make the source's data the good one and start the first sync, once connected.

    Raises XenhelperError when the two sides don't connect within ``seconds``.
    """
    by_minor = {disk.minor: disk for disk in plan.fresh}
    missing = proc.wait_connected(list(by_minor), seconds)
    if missing:
        disk = by_minor[missing[0]]
        raise XenhelperError(
            f"{disk.resource} doesn't connect to {plan.peer} ({plan.peer_address} port {disk.port}) "
            f"within {seconds:g} s",
            "look at the replication link",
        )
    for minor in by_minor:
        state = proc.read()[1].get(minor)
        if (
            state is None
            or state.disk not in ("Inconsistent", "UpToDate")
            or state.peer_disk != "Inconsistent"
        ):
            raise XenhelperError(
                f"{by_minor[minor].resource} isn't as new metadata makes it: "
                + (f"{state.disk}/{state.peer_disk}" if state else "gone")
            )
        verbs.primary(minor, force=True, timeout=PATIENCE)
        verbs.secondary(minor, timeout=PATIENCE)


def write_records(plan: Plan) -> None:
    """The resource records of everything that the plan created."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for disk in plan.fresh:
        record = plan.record(disk, created)
        record["run"] = plan.id
        record[publish.RECORD] = publish.for_record(record)
        statefile.write(f"{paths.RESOURCES}/{disk.resource}", record)
        apply.adopted(record)
        log.event(
            "replicated",
            f"{plan.vm}: {record['volume']} is replicated with {plan.peer} as {disk.resource}",
            log.NOTICE,
            vm=plan.vm,
            resource=disk.resource,
            peer=plan.peer,
            intent=f"{KIND}-{plan.vm}",
        )


def done(plan: Plan) -> None:
    """Nothing is left to finish or undo here."""
    intents.remove(KIND, plan.vm)


def has_records(plan: Plan) -> bool:
    """Whether this host once committed to the plan (its intent may be gone since)."""
    for disk in plan.fresh:
        record = statefile.read(f"{paths.RESOURCES}/{disk.resource}") or {}
        if record.get("run") != plan.id:
            return False
    return True


def undo(vm: str, run_id: str) -> bool:
    """Take back what this host's open intent ``run_id`` may have created.

    The resource stops first, then its file goes, then the volumes that bear the run's tag.
    Returns False when there is no such intent. Raises XenhelperError when the intent is
    committed or something can't be taken back; the intent then stays.
    """
    intent = intents.read(KIND, vm)
    if intent is None or intent.get("id") != run_id:
        return False
    if intent.get("state") != OPEN:
        raise XenhelperError(f"{vm}: its set-up is finished already, not undone", "xenhelper forget " + vm)
    plan = from_json(intent["plan"])
    if plan.takes_over:
        from xenhelper import handmade

        handmade.undo(plan)
    else:
        _take_back(plan, intent.get("role", ""))
    intents.remove(KIND, vm)
    text = f"{vm}: undid a replication that wasn't finished"
    log.event("note", text, log.NOTICE, vm=vm, intent=f"{KIND}-{vm}")
    return True


def _take_back(plan: Plan, role: str) -> None:
    vm = plan.vm
    text = resfile.read(vm)
    ours = text is not None and text == plan.resource_file()
    # a lost half that was to be made anew (rejoin.py): its resources stay in the file
    known = vm_records(vm).keys() & {disk.resource for disk in plan.fresh}
    for disk in plan.fresh:
        if ours or _is_up_with(disk.resource, disk.minor):
            adm.down(disk.resource, disk.minor)
    if ours and not known:
        before = plan.resource_file_before()
        if before is None:
            statefile.remove(resfile.path(vm))
        else:
            statefile.write_atomically(resfile.path(vm), before.encode())
    statefile.remove(f"{paths.DRBD_D}/.{vm}.res.{plan.id}")
    _remove_volumes(plan, role)


def _is_up_with(resource: str, minor: int) -> bool:
    from xenhelper.drbd import events

    if minor not in proc.minors():
        return False
    found = events.one(resource)
    return found is not None and found.minor == minor


def _remove_volumes(plan: Plan, role: str) -> None:
    if not plan.fresh:
        return
    mine = f"xenhelper.run={plan.id}"
    known = {volume.full_name: volume for volume in volumes.volumes()}
    for disk in plan.fresh:
        wanted = [disk.meta_name] if role == SOURCE else [disk.meta_name, disk.name]
        for name in wanted:
            volume = known.get(f"{disk.group}/{name}")
            if volume is not None and mine in volume.tags:
                volumes.remove(volume, mine, f"xenhelper.resource={disk.resource}")
        data = known.get(f"{disk.group}/{disk.name}")
        if role == SOURCE and data is not None and data.tag("resource") == disk.resource:
            volumes.change_tags(data.path, drop=[tag for tag in data.tags if tag.startswith("xenhelper.")])


def resources_up(vm: str) -> None:
    """Bring up those resources of ``vm`` that are down. Raises XenhelperError."""
    states = proc.read()[1]
    minors = {record["resource"]: int(record["minor"]) for record in vm_records(vm).values()}
    down = {resource: minor for resource, minor in minors.items() if minor not in states}
    if down:
        proc.require_module()
        adm.up(vm, down)


def vm_records(vm: str = "") -> dict[str, dict[str, str]]:
    """Our resource records by name: all of them, or one VM's."""
    found = {}
    for name in statefile.names(paths.RESOURCES):
        record = statefile.read(os.path.join(paths.RESOURCES, name))
        if record is not None and (not vm or record.get("vm") == vm):
            found[name] = record
    return found


def rename_vdev(resource: str, vm: str, vdev: str) -> None:
    """Note that the config now gives this resource's disk another vdev."""
    path = f"{paths.RESOURCES}/{resource}"
    record = statefile.read(path)
    if record is not None and record.get("vm") == vm and record.get("vdev") != vdev:
        statefile.write(path, {**record, "vdev": vdev})
