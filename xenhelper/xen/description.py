"""A running domain as xl describes it: disks, bridges, kind, from ``xl list -l NAME``."""

import json
from dataclasses import dataclass
from typing import Any

from xenhelper import names, paths
from xenhelper.errors import CommandFailed, Refused
from xenhelper.run import run
from xenhelper.xen.domains import real_xl


@dataclass(frozen=True)
class DomainDisk:
    """A disk of a domain. ``path`` is the target: a resource's name where ``script`` is ours."""

    vdev: str
    path: str
    script: str
    writable: bool
    cdrom: bool

    @property
    def managed(self) -> bool:
        """Whether our block script serves it."""
        return self.script.rsplit("/", 1)[-1] == paths.BLOCK_SCRIPT


@dataclass(frozen=True)
class Description:
    """A running domain. ``memory_kib`` is its maximum, ``kind`` is pv, pvh or hvm."""

    domid: int
    name: str
    uuid: str
    kind: str
    memory_kib: int
    disks: tuple[DomainDisk, ...]
    bridges: tuple[str, ...]
    files: tuple[str, ...]
    pci: tuple[str, ...]

    @property
    def vm(self) -> str:
        """The VM that this domain runs."""
        return names.base_vm(self.name)

    @property
    def resources(self) -> list[str]:
        """Its replicated disks' resources."""
        return [disk.path for disk in self.disks if disk.managed]


def from_json(data: dict[str, Any]) -> Description:
    """From one element of ``xl list -l`` (libxl's own JSON, libxl_types.idl)."""
    config = data["config"]
    create, build = config["c_info"], config["b_info"]
    kind = str(create.get("type", build.get("type", "pv")))
    details = build.get(f"type.{kind}", {})
    files = [build.get(key) or details.get(key) for key in ("kernel", "ramdisk")]
    return Description(
        domid=int(data["domid"]),
        name=str(create["name"]),
        uuid=str(create.get("uuid", "")),
        kind=kind,
        memory_kib=int(build.get("max_memkb", 0)),
        disks=tuple(_disk(disk) for disk in config.get("disks", [])),
        bridges=tuple(str(nic["bridge"]) for nic in config.get("nics", []) if nic.get("bridge")),
        files=tuple(str(path) for path in files if path),
        pci=tuple(str(device.get("bdf", device)) for device in config.get("pcidevs", [])),
    )


def _disk(disk: dict[str, Any]) -> DomainDisk:
    return DomainDisk(
        vdev=str(disk.get("vdev", "")),
        path=str(disk.get("pdev_path") or ""),
        script=str(disk.get("script") or ""),
        writable=bool(disk.get("readwrite", 0)),
        cdrom=bool(disk.get("is_cdrom", 0)),
    )


def describe(domain: str) -> Description:
    """The running domain of this name or number. Raises Refused when there is none."""
    try:
        text = run([real_xl(), "list", "-l", domain], timeout=15).stdout
    except CommandFailed as error:
        raise Refused(f"no running domain {domain[:90]!r} on this host", "`xl list` shows them") from error
    data = json.loads(text)
    return from_json(data[0] if isinstance(data, list) else data)
