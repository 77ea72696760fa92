"""A domain's definition, libvirt's XML (formatdomain): read carefully, its disks exchanged.

The standard library parses. What libvirt writes has no document type, so one that has is
refused: nothing is expanded, and nothing outside is read.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xenhelper.errors import XenhelperError

MAX_BYTES = 256 * 1024
# libxl_conf.c: how the driver's own elements are called in what it writes
_NAMESPACES = {
    "xen": "http://libvirt.org/schemas/domain/xen/1.0",
    "qemu": "http://libvirt.org/schemas/domain/qemu/1.0",
}
_KINDS = {"xen": "pv", "linux": "pv", "hvm": "hvm", "xenpvh": "pvh"}
# bytes a unit of <memory> stands for (formatdomain: KiB when there is none)
_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "k": 1024, "KiB": 1024, "MB": 10**6, "M": 1 << 20, "MiB": 1 << 20}
_UNITS |= {"GB": 10**9, "G": 1 << 30, "GiB": 1 << 30}


@dataclass(frozen=True)
class Disk:
    """One disk. ``path`` is '' for what has no medium or isn't on this host (network, volume)."""

    vdev: str
    path: str
    kind: str
    driver: str
    form: str
    device: str
    writable: bool

    def as_xl(self) -> "dict[str, Any]":
        """As libxl's JSON has such a disk (libxlMakeDisk in libxl_conf.c), for policy to decide."""
        backend = {"": "unknown", "phy": "phy", "qemu": "qdisk", "file": "qdisk"}.get(self.driver, "tap")
        if self.kind not in ("block", "file"):
            backend = "qdisk"
        return {
            "vdev": self.vdev,
            "pdev_path": self.path,
            "backend": backend,
            "format": self.form or "raw",
            "readwrite": int(self.writable),
            "is_cdrom": int(self.device == "cdrom"),
        }


@dataclass(frozen=True)
class Definition:
    """What matters of a domain's XML. ``kind`` is pv, pvh or hvm."""

    name: str
    uuid: str
    kind: str
    memory_kib: int
    disks: "tuple[Disk, ...]"
    bridges: "tuple[str, ...]"
    files: "tuple[str, ...]"


def tree(text: str) -> ET.Element:
    """The parsed XML. Raises XenhelperError for what libvirt wouldn't write."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise XenhelperError(f"a domain's XML of {len(text)} characters is too long")
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise XenhelperError("a domain's XML has a document type, which libvirt's never has")
    try:
        root = ET.fromstring(text)  # noqa: S314 (no entity is left to expand)
    except (ET.ParseError, ValueError) as error:
        raise XenhelperError(f"a domain's XML can't be read: {error}") from error
    if root.tag != "domain":
        raise XenhelperError(f"a domain's XML begins with <{root.tag[:40]}>")
    return root


def parse(text: str) -> Definition:
    """:class:`Definition` of a domain's XML. Raises XenhelperError."""
    root = tree(text)
    name = (root.findtext("name") or "").strip()
    uuid = (root.findtext("uuid") or "").strip().lower()
    if not name:
        raise XenhelperError("a domain's XML names no domain")
    kind = _KINDS.get((root.findtext("os/type") or "xen").strip(), "hvm")
    bridges = {source.get("bridge", "") for source in root.iterfind("devices/interface/source")} - {""}
    files = [(root.findtext(f"os/{key}") or "").strip() for key in ("kernel", "initrd")]
    return Definition(
        name,
        uuid,
        kind,
        _memory_kib(root.find("memory")),
        tuple(_disk(element) for element in root.iterfind("devices/disk")),
        tuple(sorted(bridges)),
        tuple(path for path in files if path.startswith("/")),
    )


def _memory_kib(element: "ET.Element | None") -> int:
    text = (element.text or "").strip() if element is not None else ""
    if element is None or not text.isdecimal() or len(text) > 18:
        return 0
    return int(text) * _UNITS.get(element.get("unit", "KiB"), 1024) // 1024


def _disk(element: ET.Element) -> Disk:
    source, target, driver = (element.find(key) for key in ("source", "target", "driver"))
    path = ""
    if source is not None:
        path = source.get("dev") or source.get("file") or ""
    return Disk(
        vdev=target.get("dev", "") if target is not None else "",
        path=path,
        kind=element.get("type", ""),
        driver=driver.get("name", "") if driver is not None else "",
        form=driver.get("type", "") if driver is not None else "",
        device=element.get("device", "disk"),
        writable=element.find("readonly") is None,
    )


def exchanged(text: str, paths: "Mapping[str, str]") -> str:
    """The XML with the disks of these vdevs on other block devices, and all else as it is.

    Raises XenhelperError when one of them isn't there, or when anything else would change.
    """
    for prefix, uri in _NAMESPACES.items():
        ET.register_namespace(prefix, uri)
    root = tree(text)
    left = dict(paths)
    for element in root.iterfind("devices/disk"):
        target, source = element.find("target"), element.find("source")
        path = left.pop(target.get("dev", ""), "") if target is not None else ""
        if not path:
            continue
        if source is None or element.get("type") != "block":
            raise XenhelperError(
                f"disk {target.get('dev') if target is not None else '?'} is no block device"
            )
        source.set("dev", path)
    if left:
        raise XenhelperError(f"its definition has no disk {', '.join(sorted(left))}")
    return ET.tostring(root, encoding="unicode") + "\n"


def same_but_for_disks(one: str, other: str) -> bool:
    """Whether two definitions differ in nothing but the devices that their disks are on."""
    return _bare(one) == _bare(other)


def _bare(text: str) -> str:
    root = tree(text)
    for source in root.iterfind("devices/disk/source"):
        source.attrib.pop("dev", None)
    for element in root.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
    return ET.canonicalize(ET.tostring(root, encoding="unicode"))
