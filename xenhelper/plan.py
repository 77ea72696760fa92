"""What a replication sets up: one frozen value that both hosts work from.

The source (where the data is) makes it, keeps it in its intent and sends it to the
target; each renders the resource file and its records from it. Seen from one end
(:meth:`Plan.seen_from`), ``here`` is that host.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from xenhelper import names, volumes
from xenhelper.drbd import knobs, resfile
from xenhelper.drbd.knobs import Knobs
from xenhelper.errors import XenhelperError

# the key of a resource's record that says that it was made by hand
TAKEN = "taken_over"
# where DRBD keeps metadata at the end of the data volume itself
INTERNAL = "internal"


@dataclass(frozen=True)
class Disk:
    """One disk; sizes in bytes. ``fresh``: this plan creates it; otherwise it exists and is
    only listed (its metadata's sizes are 0 then).

    ``taken``: an administrator made it by hand, and it was, or is now, taken over with all
    that it has. Its metadata is then where ``meta`` says (a volume's path, or ``internal``),
    and its volume may have another name on the peer.

    ``pool``, ``meta_pool``: the thin pool that the volume, and its metadata, are in or come to
    be in; '' where that is the group itself, or nothing is made.
    """

    vdev: str
    resource: str
    minor: int
    port: int
    size: int
    group: str
    peer_group: str
    name: str
    secret: str
    meta_size: int
    peer_meta_size: int
    fresh: bool = True
    knobs: Knobs = field(default_factory=Knobs)
    taken: bool = False
    meta: str = ""
    peer_meta: str = ""
    peer_name: str = ""
    pool: str = ""
    meta_pool: str = ""
    peer_pool: str = ""
    peer_meta_pool: str = ""

    @property
    def meta_name(self) -> str:
        return self.name + volumes.META_SUFFIX


@dataclass(frozen=True)
class Plan:
    """All replicated disks of one VM and the two hosts. ``address``: replication address
    of ``host``, likewise ``peer_address``. ``host`` is the source until seen_from()."""

    id: str
    vm: str
    host: str
    address: str
    peer: str
    peer_address: str
    protocol: str
    disks: tuple[Disk, ...]

    @property
    def fresh(self) -> tuple[Disk, ...]:
        return tuple(disk for disk in self.disks if disk.fresh)

    @property
    def takes_over(self) -> bool:
        """Whether it takes over what was made by hand, instead of making it."""
        return any(disk.taken for disk in self.fresh)

    def seen_from(self, host: str) -> "Plan":
        """The same plan with ``host`` (one of the two) as the local end."""
        if host == self.host:
            return self
        if host != self.peer:
            raise XenhelperError(f"the plan for {self.vm} is for {self.host} and {self.peer}, not for {host}")
        turned = tuple(
            replace(
                disk,
                group=disk.peer_group,
                peer_group=disk.group,
                name=disk.peer_name or disk.name,
                peer_name=disk.name if disk.peer_name else "",
                meta=disk.peer_meta,
                peer_meta=disk.meta,
                meta_size=disk.peer_meta_size,
                peer_meta_size=disk.meta_size,
                pool=disk.peer_pool,
                peer_pool=disk.pool,
                meta_pool=disk.peer_meta_pool,
                peer_meta_pool=disk.meta_pool,
            )
            for disk in self.disks
        )
        return replace(
            self,
            host=self.peer,
            address=self.peer_address,
            peer=self.host,
            peer_address=self.address,
            disks=turned,
        )

    def resource_file(self) -> str:
        """The text of /etc/drbd.d/VM.res, the same from either end."""
        return resfile.render(self.vm, [self._entry(disk) for disk in self.disks])

    def resource_file_before(self) -> str | None:
        """The text without what this plan creates; None when nothing is left then."""
        kept = [self._entry(disk) for disk in self.disks if not disk.fresh]
        return resfile.render(self.vm, kept) if kept else None

    def _entry(self, disk: Disk) -> resfile.Entry:
        ends = (
            resfile.End(self.host, self.address, *_paths(disk)),
            resfile.End(self.peer, self.peer_address, *_peer_paths(disk)),
        )
        return resfile.Entry(
            disk.resource, disk.minor, disk.port, disk.secret, ends, self.protocol, disk.knobs
        )

    def record(self, disk: Disk, created: str) -> dict[str, str]:
        """The resource record of ``disk`` on the local end (paths.RESOURCES)."""
        volume, meta = _paths(disk)
        peer_volume, peer_meta = _peer_paths(disk)
        found = {
            "resource": disk.resource,
            "vm": self.vm,
            "vdev": disk.vdev,
            "minor": str(disk.minor),
            "port": str(disk.port),
            "volume": volume,
            "meta": meta,
            "host": self.host,
            "peer": self.peer,
            "address": resfile.endpoint(self.address, disk.port),
            "peer_address": resfile.endpoint(self.peer_address, disk.port),
            "peer_volume": peer_volume,
            "size_bytes": str(disk.size),
            "protocol": self.protocol,
            "secret": disk.secret,
            "knobs": json.dumps(disk.knobs.to_json()),
            "created": created,
        }
        return {**found, TAKEN: "yes", "peer_meta": peer_meta} if disk.taken else found

    def to_json(self) -> dict[str, Any]:
        """For an intent or a request. Both hold the secrets: 0600 and ssh."""
        found = asdict(self)
        found["resources"] = found.pop("disks")
        for tree, disk in zip(found["resources"], self.disks, strict=True):
            tree["knobs"] = disk.knobs.to_json()
            # what only thin ones have: an older peer knows no such
            for key in _POOLS:
                if not tree[key]:
                    del tree[key]
        return found


_POOLS = ("pool", "meta_pool", "peer_pool", "peer_meta_pool")


def _paths(disk: Disk) -> tuple[str, str]:
    """Volume and metadata on the local end."""
    return f"/dev/{disk.group}/{disk.name}", disk.meta or f"/dev/{disk.group}/{disk.meta_name}"


def _peer_paths(disk: Disk) -> tuple[str, str]:
    name, meta = disk.peer_name or disk.name, disk.peer_meta
    return f"/dev/{disk.peer_group}/{name}", meta or f"/dev/{disk.peer_group}/{disk.meta_name}"


def from_json(data: Mapping[str, Any] | str) -> Plan:
    """The plan that :meth:`Plan.to_json` gave, every value checked (it may come from the
    peer). Raises XenhelperError."""
    try:
        tree = json.loads(data) if isinstance(data, str) else dict(data)
        disks = tuple(
            Disk(**{**disk, "knobs": knobs.checked(disk.get("knobs", {}))}) for disk in tree.pop("resources")
        )
        plan = Plan(disks=disks, **tree)
        _check_types(plan)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise XenhelperError(f"a replication plan can't be read ({error})") from error
    _check(plan)
    return plan


def _check_types(plan: Plan) -> None:
    """A dataclass takes anything. Raises TypeError."""
    items: list[Plan | Disk] = [plan, *plan.disks]
    for item in items:
        for one in fields(item):
            value, wanted = getattr(item, one.name), one.type
            if wanted in (str, int, bool) and type(value) is not wanted:
                raise TypeError(f"{one.name} is {type(value).__name__}")


def _valid_meta(meta: str, taken: bool) -> bool:
    """Only what was made by hand has its metadata elsewhere, and that is always said."""
    if not taken:
        return meta == ""
    return meta == INTERNAL or (meta.startswith("/dev/") and volumes.split_path(meta) is not None)


def _check(plan: Plan) -> None:
    names.check_vm(plan.vm)
    # it becomes part of a tag and of a file's name
    sane = re.fullmatch(r"[0-9A-Za-z]{1,40}", plan.id) is not None
    sane = sane and names.valid_host(plan.host) and names.valid_host(plan.peer)
    sane = sane and plan.protocol in ("A", "B", "C") and plan.host != plan.peer and 0 < len(plan.disks) <= 64
    for address in (plan.address, plan.peer_address):
        resfile.family(address)
    for disk in plan.disks:
        names.check_resource(disk.resource)
        sane = sane and all(
            volumes.valid_name(name)
            for name in (disk.group, disk.peer_group, disk.name if disk.taken else disk.meta_name)
        )
        sane = sane and names.valid_vdev(disk.vdev)
        numbers = (disk.minor, disk.port, disk.size, disk.meta_size, disk.peer_meta_size)
        sane = sane and all(number >= 0 for number in numbers)
        sane = sane and disk.minor < 1 << 20 and 0 < disk.port < 65536 and 0 < disk.size < 1 << 60
        pools = (getattr(disk, key) for key in _POOLS)
        sane = sane and all(not name or volumes.valid_name(name) for name in (disk.peer_name, *pools))
        sane = sane and all(_valid_meta(meta, disk.taken) for meta in (disk.meta, disk.peer_meta))
        if sane and disk.fresh and not disk.taken:
            sane = min(disk.meta_size, disk.peer_meta_size) >= volumes.meta_bytes(disk.size, 512)
    if not sane or len({disk.resource for disk in plan.disks}) != len(plan.disks):
        raise XenhelperError(f"the replication plan for {plan.vm} has values out of range")
