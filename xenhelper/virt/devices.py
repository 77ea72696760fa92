"""Which resource a device's path is: a domain of libvirt has /dev/drbdN as its disk."""

import os

from xenhelper import paths, statefile

TYPE_CHECKING = False  # importing typing costs the hook
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAJOR = 147  # Documentation/admin-guide/devices.txt: DRBD


def path_of(record: "Mapping[str, str]") -> str:
    """The device as it stands in a domain's definition, the same on both hosts."""
    return f"/dev/drbd{record['minor']}"


def number_of(minor: str) -> str:
    """A resource's ``major:minor`` in hex, as blkback writes it into xenstore."""
    return f"{_MAJOR:x}:{int(minor):x}" if minor.isdecimal() and len(minor) < 10 else ""


def names_of(resource: str, minor: str) -> "tuple[str, ...]":
    """The paths by which DRBD's device of ``resource`` can be called (drbd.rules)."""
    return (
        f"/dev/drbd{minor}",
        f"/dev/drbd_{resource}",
        f"/dev/drbd/by-res/{resource}",
        f"/dev/drbd/by-res/{resource}/0",
    )


def records() -> "dict[str, dict[str, str]]":
    """This host's resource records by name."""
    found = {}
    for name in statefile.names(paths.RESOURCES):
        record = statefile.read(f"{paths.RESOURCES}/{name}")
        if record is not None and "vm" in record and "minor" in record:
            found[name] = record
    return found


def device_number(path: str) -> str:
    """``major:minor`` in hex of the block device at ``path``, '' when it is none."""
    try:
        rdev = os.stat(paths.ROOT + path).st_rdev
    except (OSError, ValueError):
        return ""
    return f"{os.major(rdev):x}:{os.minor(rdev):x}" if rdev else ""


def resource_at(path: str, known: "Mapping[str, Mapping[str, str]]", number: "Callable[[str], str]") -> str:
    """The resource of ours that ``path`` is, '' when it is none. ``number`` looks at the device."""
    seen = number(path) if path.startswith("/dev/") else ""
    for name, record in known.items():
        if path in names_of(name, record["minor"]) or (seen and seen == number_of(record["minor"])):
            return name
    return ""


def beneath_at(path: str, known: "Mapping[str, Mapping[str, str]]", number: "Callable[[str], str]") -> str:
    """The resource of ours that ``path`` is the volume, or the metadata, of."""
    seen = number(path) if path.startswith("/dev/") else ""
    for name, record in known.items():
        for key in ("volume", "meta"):
            lower = record.get(key, "")
            if lower.startswith("/") and (path == lower or (seen and seen == number(lower))):
                return name
    return ""
