"""Resources that an administrator made by hand, as one host has them: the look, and whether
they can be taken over (xenhelper.convert)."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from xenhelper import names, paths, provision, statefile, volumes
from xenhelper.drbd import events, resscan, show
from xenhelper.errors import Refused, XenhelperError
from xenhelper.plan import INTERNAL


@dataclass(frozen=True)
class Side:
    """One host's end of a resource, as its kernel has it. ``volume`` and ``meta``: paths of
    logical volumes (``meta`` may be ``internal``), '' where there is none; ``numbers``: those of
    DRBD's volumes; ``file``: which one in /etc/drbd.d defines it, ``besides``: what else
    does; ``used``: who uses the volume beneath DRBD. Size in bytes; minor -1: not up."""

    host: str
    resource: str
    minor: int = -1
    numbers: str = ""
    local: str = ""
    remote: str = ""
    shown: str = ""
    volume: str = ""
    meta: str = ""
    size: int = 0
    role: str = ""
    state: str = ""
    file: str = ""
    besides: str = ""
    used: str = ""


def side_from_json(data: object) -> Side:
    """What the peer said of its end. Raises XenhelperError."""
    try:
        side = Side(**data)  # type: ignore[arg-type]
    except TypeError as error:
        raise XenhelperError(f"the peer's resources can't be read ({error})") from error
    blank = Side("", "")
    if any(type(value) is not type(getattr(blank, key)) for key, value in asdict(side).items()):
        raise XenhelperError("the peer's resources have values of another type")
    return side


# as in a plan (plan.py)
MAX_DISKS = 64
IN_SYNC = "Connected UpToDate/UpToDate"


def look(wanted: Iterable[str]) -> list[Side]:
    """This host's end of each resource. Changes nothing. Raises XenhelperError."""
    host = os.uname().nodename
    known = volumes.volumes()
    files = defined()
    return [_side(host, names.check_resource(name), known, files) for name in wanted]


def _side(host: str, name: str, known: list[volumes.Volume], listed: dict[str, list[str]]) -> Side:
    files = [file for file, words in listed.items() if name in words]
    file = files[0] if len(files) == 1 else ""
    besides = ", ".join(word for word in listed.get(file, ()) if word != name)
    state, settings = events.one(name), show.one(name)
    if state is None or settings is None:
        return Side(host, name, file=file, besides=besides)
    volume = volumes.resolve(settings.volume, known)
    meta = volumes.resolve(settings.meta, known) if settings.meta.startswith("/") else None
    itself = f"drbd{settings.minor}"
    beneath = [f"{one.path} is {by}" for one in (volume, meta) if one and (by := volumes.users(one, itself))]
    return Side(
        host,
        name,
        settings.minor,
        ",".join(settings.numbers),
        settings.local,
        settings.remote,
        settings.volume,
        volume.path if volume else "",
        INTERNAL if settings.meta == INTERNAL else meta.path if meta else "",
        state.size,
        state.role,
        f"{state.connection} {state.disk}/{state.peer_disk}",
        file,
        besides,
        ", ".join(beneath),
    )


def defined() -> dict[str, list[str]]:
    """Each file that drbd.conf's ``include "drbd.d/*.res"`` finds -> what it defines (see
    :func:`heads`)."""
    found = (name for name in statefile.names(paths.DRBD_D) if name.endswith(".res"))
    return {name: heads(f"{paths.DRBD_D}/{name}") for name in found}


def heads(path: str) -> list[str]:
    """What a resource file defines: names of resources, and the first word of anything else
    (``common``); nothing where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = resscan.top_level(file.read(resscan.MAX_FILE))
    except OSError:
        return []
    return [words[1] if words[0] == "resource" and len(words) == 2 else words[0] for words in found]


def check_side(side: Side, vm: str) -> None:
    """Raises Refused when this end can't be taken over (pure)."""
    name, host = side.resource, side.host
    if side.minor < 0:
        raise Refused(f"{name} isn't up on {host}", f"`drbdadm up {name}` there")
    if side.numbers != "0":
        raise Refused(
            f"{name} has DRBD volumes {side.numbers}, and xenhelper keeps one disk (0) a resource",
            "give each disk a resource of its own",
        )
    if not side.volume:
        raise Refused(f"{name} on {host} lies on {side.shown}, which is no LVM volume", "move it to one")
    if not side.meta:
        raise Refused(
            f"{name} on {host} has its metadata in an indexed place or on no LVM volume",
            "move it to a volume of its own, or inside (DRBD's user guide: external metadata)",
        )
    if not side.file:
        raise Refused(
            f"{name} isn't defined by just one file *.res in {paths.DRBD_D} on {host}",
            f"move it to a file of its own there, {paths.DRBD_D}/{name}.res, on both hosts",
        )
    if side.besides:
        raise Refused(
            f"{paths.DRBD_D}/{side.file} on {host} holds more than {vm}'s disks: {side.besides}",
            f"move what is {vm}'s to a file of its own, on both hosts",
        )
    if side.used:
        raise Refused(f"{name} on {host}: {side.used}, beneath DRBD", "let it go first")
    if side.role != events.SECONDARY:
        raise Refused(f"{name} is {side.role} on {host}: somebody uses it", f"shut {vm} down first")
    if side.state != IN_SYNC:
        raise Refused(f"{name} on {host} is {side.state}", "connect it and let it sync first")


def serve_look(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``convert-look``: this host's end of resources made by hand; of ours, nothing."""
    vm = names.check_vm(args["vm"])
    if len(args["resources"]) > MAX_DISKS:  # each costs two programs
        raise Refused(f"{vm}: {len(args['resources'])} resources are more than a VM's disks")
    taken = provision.vm_records()
    mine = [name for name in args["resources"] if name in taken and taken[name].get("vm") != args["vm"]]
    if mine:
        raise Refused(f"{mine[0][:120]} belongs to VM {taken[mine[0]].get('vm')} on {os.uname().nodename}")
    return {"sides": [asdict(one(side, args["resources"])) for side in look(args["resources"])]}


def one(side: Side, together: Iterable[str]) -> Side:
    """``side`` without those beside it that are taken over together with it."""
    left = [word for word in side.besides.split(", ") if word and word not in set(together)]
    return Side(**{**asdict(side), "besides": ", ".join(left)})
