"""Each replicated disk's read-ahead, as its guest is to have it: computed here, kept in
the resource's record, from where the block script publishes it in xenstore.

Guests read it as ``read-ahead-kb`` in their disk's backend folder, which dom0 owns and
they can't write. A VM that runs already gets a changed value at once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from xenhelper import intents, log, names, paths, statefile
from xenhelper.config import Config
from xenhelper.errors import Refused, XenhelperError
from xenhelper.tuning import blockdev, topology
from xenhelper.tuning.blockdev import Geometry, Segment
from xenhelper.xen import domains
from xenhelper.xen.xenstore import Xenstore

KEY = "read-ahead-kb"  # below the disk's backend folder (contract)
RECORD = "read_ahead_kb"
# where the guest's reader says what it has set; the guest may write there what it likes
CLAIM = "data/xenhelper/read-ahead"


@dataclass(frozen=True)
class Wanted:
    """What a disk's read-ahead is to be, in KiB, and why."""

    kib: int
    why: str


def wanted(record: Mapping[str, str], settings: Config, geometry: Geometry) -> Wanted:
    """The administrator's word, else the topology's. Pure."""
    asked = settings.tuning.read_ahead_of(record.get("vm", ""), record.get("vdev", ""))
    if asked:
        return Wanted(asked, "configured")
    return Wanted(geometry.read_ahead_kib, geometry.why)


def for_record(record: Mapping[str, str], settings: Config | None = None) -> str:
    """The value for a disk that gets its record now; a plain disk's where nothing can be
    read: never a reason for a create to fail."""
    try:
        if settings is None:
            from xenhelper import config

            settings = config.load()
        geometry = blockdev.of(record.get("volume", ""), blockdev.tables())
        return str(wanted(record, settings, geometry).kib)
    except (OSError, XenhelperError) as error:
        log.event("note", f"{record.get('resource')}: read-ahead isn't computed: {error}", log.WARNING)
        return str(topology.MOST)


def refresh(
    records: Mapping[str, Mapping[str, str]],
    settings: Config,
    known: Mapping[str, tuple[Segment, ...]],
    dry_run: bool = False,
) -> tuple[list[str], list[str]]:
    """Compute each record's value anew; what changed (or would), and what couldn't.

    A VM that something is being done to keeps its value until the next time.
    """
    changed, failed = [], []
    for name, record in records.items():
        want = wanted(record, settings, blockdev.of(record.get("volume", ""), known))
        if record.get(RECORD) == str(want.kib):
            continue
        line = f"{name}: its guest's read-ahead becomes {want.kib} KiB ({want.why})"
        try:
            if not dry_run:
                _note(name, record.get("vm", ""), want.kib)
            changed.append(line)
        except (OSError, XenhelperError) as error:
            failed.append(f"{name}: read-ahead isn't noted: {error}")
    return changed, failed


def _note(name: str, vm: str, kib: int) -> None:
    fd = intents.lock(names.check_vm(vm), wait=2.0, who="tune")
    try:
        if any(intent.get("vm") == vm for intent in intents.all_open()):
            raise Refused(f"{vm}: a change is under way", "it is done at the next boot or `xenhelper tune`")
        path = f"{paths.RESOURCES}/{names.check_resource(name)}"
        record = statefile.read(path)
        if record is not None:
            statefile.write(path, {**record, RECORD: str(kib)})
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Guest:
    """A running VM's disk: ``published`` in xenstore by us, ``claimed`` by the guest as
    set. Its claim proves nothing: the guest may write there what it likes."""

    vm: str
    resource: str
    domid: int
    published: str
    claimed: str

    @property
    def state(self) -> str:
        """``applied`` (says the guest), ``published`` only, or ``unknown``."""
        if not self.published:
            return "unknown"
        return "applied" if self.claimed == self.published else "published"


def guests(records: Mapping[str, Mapping[str, str]]) -> list[Guest]:
    """Every running VM's replicated disks on this host. Raises XenhelperError."""
    found = []
    with Xenstore() as store:
        for name in records:
            for domid, domain in domains.users_of(store, name):
                base = _folder(store, domid, name)
                if not base or domid == 0:
                    continue
                claim = store.read(f"/local/domain/{domid}/{CLAIM}/{base.rsplit('/', 1)[1]}") or ""
                published = store.read(f"{base}/{KEY}") or ""
                found.append(Guest(names.base_vm(domain), name, domid, published, _number(claim)))
    return found


def publish(records: Mapping[str, Mapping[str, str]], dry_run: bool = False) -> list[str]:
    """Bring what running VMs can read to what the records say. Raises XenhelperError."""
    changed = []
    with Xenstore() as store:
        for name, record in records.items():
            value = _number(record.get(RECORD, ""))
            for domid, domain in domains.users_of(store, name) if value else ():
                base = _folder(store, domid, name)
                if not base or domid == 0 or store.read(f"{base}/{KEY}") == value:
                    continue
                if not dry_run:
                    store.write(f"{base}/{KEY}", value)
                changed.append(f"{domain or domid}: published read-ahead {value} KiB for {name}")
    return changed


def _folder(store: Xenstore, domid: int, resource: str) -> str:
    """The disk's backend folder, '' when it has gone meanwhile."""
    for devid in store.list(f"backend/vbd/{domid}"):
        base = f"backend/vbd/{domid}/{devid}"
        if domains.is_on(store, base, resource):
            return base
    return ""


def _number(text: str) -> str:
    """``text`` if it is a plausible number of KiB, else ''."""
    return text if text.isdecimal() and len(text) <= 7 and text.isascii() else ""
