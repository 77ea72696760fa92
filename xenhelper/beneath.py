"""Find domains that run on a volume *beneath* DRBD: what they write is on no replica.

An old config, or a disk attached past xenhelper, can do that: blkback and DRBD open the
same volume without minding each other. Pure decisions over what :func:`backends` reads
from the toolstack's own folders in xenstore.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from xenhelper import names, paths, statefile
from xenhelper.drbd import events
from xenhelper.xen.xenstore import Xenstore

KINDS = ("vbd", "qdisk")


@dataclass(frozen=True)
class Backend:
    """One disk that this host serves. ``device`` is ``major:minor`` in hex, '' when the
    backend opens a path instead (qdisk). ``script``, ``vdev``, ``writable``: as xl was told;
    ``state`` is 4 while the guest is connected to it (xen/include/public/io/xenbus.h)."""

    domid: str
    devid: str
    domain: str
    device: str
    params: str
    script: str = ""
    vdev: str = ""
    writable: bool = True
    state: str = ""


@dataclass(frozen=True)
class Finding:
    """``domain`` runs on ``volume``, which belongs to ``resource`` of ``vm``."""

    domain: str
    domid: str
    volume: str
    resource: str
    vm: str
    peer: str

    def what(self) -> str:
        """One line."""
        return (
            f"domain {self.domain} (id {self.domid}) runs on {self.volume}, beneath DRBD resource "
            f"{self.resource}: what it writes isn't replicated"
        )

    def do(self, state: events.Resource | None) -> str:
        """The commands that put it right, by where the good data is."""
        if state is not None and state.peer_role == events.PRIMARY:
            return (
                f"at once `xl destroy {self.domid}`, then `drbdadm invalidate {self.resource}` here: "
                f"{self.peer} holds the good data"
            )
        return (
            f"`xl shutdown -w {self.domid}`, then on {self.peer} `drbdadm invalidate {self.resource}`, "
            f"then `xl create` of {self.vm}'s config here"
        )


def backends(store: Xenstore) -> list[Backend]:
    """Every disk backend in dom0. Raises XenstoreError."""
    found = []
    for kind in KINDS:
        for domid in store.list(f"backend/{kind}"):
            for devid in store.list(f"backend/{kind}/{domid}"):
                base = f"backend/{kind}/{domid}/{devid}"
                name = "dom0" if domid == "0" else store.read(f"/local/domain/{domid}/name") or domid
                device = store.read(f"{base}/physical-device") or ""
                found.append(
                    Backend(
                        domid,
                        devid,
                        name,
                        device,
                        store.read(f"{base}/params") or "",
                        store.read(f"{base}/script") or "",
                        store.read(f"{base}/dev") or "",
                        store.read(f"{base}/mode") != "r",
                        store.read(f"{base}/state") or "",
                    )
                )
    return found


def device_number(path: str) -> str:
    """``major:minor`` of a block device as blkback writes it, '' when it isn't there."""
    try:
        rdev = os.stat(path).st_rdev
    except (OSError, ValueError):
        return ""
    return f"{os.major(rdev):x}:{os.minor(rdev):x}" if rdev else ""


def find(
    disks: Iterable[Backend],
    records: Mapping[str, Mapping[str, str]],
    number: Callable[[str], str] = device_number,
) -> list[Finding]:
    """The disks in ``disks`` that are a volume, or its metadata, of one of ``records``."""
    lower = {}
    for name, record in records.items():
        for key in ("volume", "meta"):
            # metadata may be "internal": then it is on the volume itself
            device = number(record[key]) if record.get(key, "").startswith("/") else ""
            if device:
                lower[device] = (name, record[key])
    found = []
    for disk in disks:
        # qdisk: "aio:/dev/vg0/web1"
        path = disk.params[disk.params.find("/") :] if "/" in disk.params else ""
        device = disk.device or (number(path) if path else "")
        if device.lower() not in lower:
            continue
        name, volume = lower[device.lower()]
        record = records[name]
        found.append(
            Finding(
                disk.domain, disk.domid, volume, name, record.get("vm", name), record.get("peer", "the peer")
            )
        )
    return found


def records() -> dict[str, dict[str, str]]:
    """This host's resource records by name; an unreadable one is passed over."""
    found = {}
    for name in statefile.names(paths.RESOURCES):
        record = statefile.read(f"{paths.RESOURCES}/{name}") if names.valid_resource(name) else None
        if record is not None:
            found[name] = record
    return found


def scan(known: Mapping[str, Mapping[str, str]] | None = None) -> list[Finding]:
    """Look now; ``known`` are the records, when they were just read. Raises XenhelperError when
    xenstore can't be read."""
    known = records() if known is None else known
    if not known:
        return []
    with Xenstore() as store:
        return find(backends(store), known)
