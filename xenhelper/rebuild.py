"""What was lost of a VM's files comes back: from our records, or from tags and the peer.

A resource file that somebody deleted is rendered anew from this host's records. After
dom0 was reinstalled there are none: then the tags on the volumes say what they are, and
the VM's other host says the rest (described.py), which is checked against the tags before
anything is written. Volumes and their metadata aren't touched.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xenhelper import config, described, intents, log, names, paths, plan, provision, statefile, volumes
from xenhelper.drbd import adm, bringup, events, knobs, proc, resfile
from xenhelper.errors import Refused, XenhelperError
from xenhelper.tuning import apply, publish


@dataclass(frozen=True)
class Tagged:
    """A data volume that bears our tags."""

    vm: str
    resource: str
    minor: int
    port: int
    volume: volumes.Volume


def entries(records: Iterable[Mapping[str, str]], text: str = "") -> list[resfile.Entry]:
    """What a VM's resource file holds, from its records. Secrets and the link's settings
    are those of ``text``, the file as it stands, where that has them. Raises XenhelperError
    when a record lacks something."""
    secrets, settings = resfile.secrets(text), resfile.knobs(text)
    found = []
    for record in records:
        name = record.get("resource", "?")
        try:
            ends = (
                resfile.End(record["host"], address(record["address"]), record["volume"], record["meta"]),
                resfile.End(
                    record["peer"],
                    address(record["peer_address"]),
                    record["peer_volume"],
                    record.get("peer_meta") or record["peer_volume"] + volumes.META_SUFFIX,
                ),
            )
            numbers = int(record["minor"]), int(record["port"])
            secret = secrets.get(name) or record["secret"]
            link = settings.get(name) or knobs.checked(json.loads(record.get("knobs", "{}")))
            entry = resfile.Entry(record["resource"], *numbers, secret, ends, record["protocol"], link)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise XenhelperError(
                f"the record of {name} lacks what its resource file needs ({error})",
                f"copy {paths.DRBD_D} from the other host",
            ) from error
        found.append(entry)
    return found


def address(endpoint: str) -> str:
    """10.99.0.1 from ``ipv4:10.99.0.1:7800`` (resfile.endpoint)."""
    return endpoint.partition(":")[2].rpartition(":")[0].strip("[]")


def resource_file(vm: str) -> bool:
    """Write the VM's resource file anew when it is gone; whether it was. Precondition: the
    VM's lock is held and nothing of it is being set up or forgotten. Raises XenhelperError."""
    path = resfile.path(vm)
    records = provision.vm_records(vm)
    if os.path.exists(path) or not records:
        return False
    text = resfile.render(vm, entries(records.values()))
    statefile.write_atomically(path, text.encode())
    try:
        bringup.adm(vm, "sh-nop")
    except XenhelperError:
        statefile.remove(path)  # so that it is told, and tried, again
        raise
    log.event("reconciled", f"{path} was gone and is written anew", log.WARNING, vm=vm)
    return True


def from_volumes(dry: bool = False) -> tuple[list[str], list[str]]:
    """Rebuild what this host lacks of the VMs whose volumes bear our tags: (what was or would
    be done, what couldn't be), a line each. Raises XenhelperError."""
    settings = config.load()
    config.check_name(settings, os.uname().nodename)
    done, left = [], []
    for vm, tagged in sorted(by_vm(volumes.volumes()).items()):
        try:
            fd = intents.lock(vm, who="reconcile --from-volumes")
            try:
                line = _one(settings, vm, tagged, dry)
            finally:
                os.close(fd)
            if line:
                done.append(line)
        except XenhelperError as error:
            left.append(str(error) if vm in str(error) else f"{vm}: {error}")
    return done, left


def by_vm(known: Iterable[volumes.Volume]) -> dict[str, list[Tagged]]:
    """Our data volumes by VM, from their tags; what bears no whole set of tags is passed over."""
    found: dict[str, list[Tagged]] = {}
    for volume in known:
        vm, resource = volume.tag("vm"), volume.tag("resource")
        numbers = volume.tag("minor"), volume.tag("port")
        if not names.valid_vm(vm) or not names.valid_resource(resource):
            continue
        if volume.is_meta or not all(text.isdecimal() for text in numbers):
            continue
        tagged = Tagged(vm, resource, int(numbers[0]), int(numbers[1]), volume)
        found.setdefault(vm, []).append(tagged)
    return found


def _one(settings: config.Config, vm: str, tagged: list[Tagged], dry: bool) -> str:
    """Rebuild one VM; '' when nothing of it is missing. Cut short, it is done again, whole."""
    described.unhindered(vm)
    records = provision.vm_records(vm)
    missing = [item.resource for item in tagged if item.resource not in records]
    old = resfile.read(vm)
    if not missing and described.is_known(vm) and old is not None:
        return ""
    told = described.by_peers(settings, vm)
    here = told.plan
    check(here, tagged)
    if old is not None and not resfile.is_ours(old, vm):
        raise Refused(f"{resfile.path(vm)} isn't xenhelper's", "move it away, then again")
    check_numbers(here)
    if dry:
        lacks = ", ".join(missing) or "nothing"
        return f"{vm}: would write {resfile.path(vm)}, records of {lacks}, its config"
    proc.require_module()
    statefile.write_atomically(resfile.path(vm), here.resource_file().encode())
    if later := down(here):
        adm.up(vm, later)
    _write_records(here, missing)
    note = described.store_config(told)
    log.event("reconciled", f"{vm} is rebuilt from its volumes and {here.peer}", log.NOTICE, vm=vm)
    return f"{vm}: rebuilt from its volumes and {here.peer}{note}"


def down(here: plan.Plan) -> dict[str, int]:
    """Resources of the plan that aren't up, with their minors."""
    states = events.snapshot()
    return {disk.resource: disk.minor for disk in here.disks if disk.resource not in states}


def check_numbers(here: plan.Plan) -> None:
    """The numbers were chosen when this host knew of them. Raises Refused when it has given
    one to another resource since."""
    minors = proc.read()[1]
    for name, minor in down(here).items():
        if minor in minors:
            raise Refused(
                f"{name}: its minor {minor} is another resource's on this host",
                "`drbdsetup show` says whose: take that down first",
            )
    for name, record in provision.vm_records().items():
        for disk in here.disks:
            both = (record.get("minor"), record.get("port"))
            if name != disk.resource and (str(disk.minor) == both[0] or str(disk.port) == both[1]):
                raise Refused(
                    f"{disk.resource}: its minor {disk.minor} or port {disk.port} is {name}'s on this host",
                    f"`xenhelper forget {record.get('vm')}` and a new create give that one others",
                )


def _write_records(here: plan.Plan, missing: Iterable[str]) -> None:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for disk in here.disks:
        if disk.resource in missing:
            record = here.record(disk, created)
            record[publish.RECORD] = publish.for_record(record)
            statefile.write(f"{paths.RESOURCES}/{disk.resource}", record)
            apply.adopted(record)


def check(here: plan.Plan, tagged: list[Tagged]) -> None:
    """Raises Refused unless the volumes here are what the other host takes them for (pure)."""
    by_resource = {item.resource: item for item in tagged}
    for disk in here.disks:
        item = by_resource.get(disk.resource)
        if item is None:
            raise Refused(
                f"{here.vm}: {here.peer} has {disk.resource} with this host, where no volume is marked so",
                f"/dev/{disk.group}/{disk.name} is lost, or lost its tags: `lvs -o lv_name,lv_tags`",
            )
        theirs = (disk.minor, disk.port, f"/dev/{disk.group}/{disk.name}")
        mine = (item.minor, item.port, item.volume.path)
        if theirs != mine:
            raise Refused(
                f"{disk.resource}: {here.peer} says minor {theirs[0]}, port {theirs[1]}, {theirs[2]}; the "
                f"tags here say {mine[0]}, {mine[1]}, {mine[2]}",
                "name the volume as the other host knows it (lvrename)",
            )
        if item.volume.size < disk.size:
            raise Refused(
                f"{disk.resource}: {item.volume.path} has {item.volume.size} bytes, and {disk.size} on "
                f"{here.peer}",
                f"`lvextend -L {disk.size}b {item.volume.path}`, then again",
            )
