"""What one host has that doctor judges, gathered there; plain JSON, since it travels.

Each part is looked at by itself: what can't be read is named in ``unread`` and keeps
nothing else from being judged. Nothing here changes anything.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from xenhelper import intents, volumes
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import run


@dataclass(frozen=True)
class Facts:
    """One host. Sizes in bytes; ``speed`` in Mbit/s, 0 when the device doesn't say.

    ``files``: SHA-256 by path of what both hosts must have alike. ``changing``: VMs with an
    open intent. ``up``: the kernel's resources, name -> minor. ``tagged``: volumes with our
    tags, path -> resource. ``pools``: see pools.look. ``configs``: by path, see
    :mod:`xenhelper.doctor.configs`.
    ``cannot_migrate``: kind of guest -> why not. ``beneath``: (vm, what, do). ``drbdadm``: why
    it refuses its configuration. ``tuning``: findings as they are.
    """

    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    shim: str = ""
    units: dict[str, str] = field(default_factory=dict)
    link: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    changing: list[str] = field(default_factory=list)
    up: dict[str, int] = field(default_factory=dict)
    res_files: dict[str, list[str]] = field(default_factory=dict)
    tagged: dict[str, str] = field(default_factory=dict)
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    pools: dict[str, dict[str, Any]] = field(default_factory=dict)
    space: dict[str, list[int]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    domains: list[dict[str, str]] = field(default_factory=list)
    cannot_migrate: dict[str, str] = field(default_factory=dict)
    beneath: list[list[str]] = field(default_factory=list)
    xendomains: str = ""
    drbdadm: str = ""
    root_ssh: str = ""
    mail: dict[str, Any] = field(default_factory=dict)
    skeletons: list[str] = field(default_factory=list)
    tuning: list[dict[str, Any]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def from_json(data: object) -> Facts:
    """Facts that travelled. Raises XenhelperError when they aren't of this shape."""
    if not isinstance(data, dict):
        raise XenhelperError("the other host's facts aren't an object")
    blank = Facts()
    given = {}
    for item in fields(Facts):
        value = data.get(item.name, getattr(blank, item.name))
        if not isinstance(value, type(getattr(blank, item.name))):
            raise XenhelperError(f"the other host's facts: {item.name} has the wrong type")
        given[item.name] = value
    return Facts(**given)


def gather(peer: str) -> dict[str, Any]:
    """This host's facts, as they bear upon ``peer``; a minute at the most."""
    from xenhelper import pools
    from xenhelper.doctor import configs, looks, mail
    from xenhelper.peer import about

    found: dict[str, Any] = {"host": os.uname().nodename, "versions": about.versions()}
    unread: list[str] = []

    def look(name: str, read: Callable[[], Any]) -> None:
        try:
            found[name] = read()
        except (XenhelperError, OSError, ValueError, KeyError) as error:
            unread.append(f"{name}: {error}"[:300])

    records = looks.records()
    found["records"] = records
    found["shim"] = looks.shim()
    look("units", lambda: looks.units(peer))
    look("link", lambda: looks.link(peer))
    look("files", lambda: looks.files(records, peer))
    look("changing", lambda: sorted({intent.get("vm", "?") for intent in intents.all_open()}))
    look("up", looks.up)
    look("res_files", looks.res_files)
    look("tagged", looks.tagged)
    look("groups", lambda: looks.groups(records))
    look("pools", lambda: pools.look(records.values()))
    look("space", looks.space)
    look("configs", lambda: configs.look(records))
    look("domains", looks.domains)
    look("cannot_migrate", looks.cannot_migrate)
    look("beneath", looks.beneath_drbd)
    look("xendomains", looks.xendomains_problem)
    look("drbdadm", looks.drbdadm)
    look("root_ssh", lambda: looks.root_ssh(peer))
    look("mail", mail.look)
    look("skeletons", looks.skeletons)
    look("tuning", looks.tuning)
    found["unread"] = unread
    return found


def serve(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``doctor-facts``: this host's facts, for ``peer``."""
    return {"facts": gather(peer)}


def group_facts(names: "set[str]") -> dict[str, dict[str, int]]:
    """Size and free bytes of these volume groups. Raises CommandFailed."""
    argv = ["vgs", "--reportformat", "json", "--units", "b", "--nosuffix"]
    argv += ["-o", "vg_name,vg_size,vg_free,vg_extent_size"]
    try:
        known = volumes.parse_groups(run(argv, timeout=30).stdout)
    except CommandFailed as error:
        raise XenhelperError(f"vgs: {error}") from error
    return {name: {"size": group.size, "free": group.free} for name, group in known.items() if name in names}
