"""The single looks of ``facts``: each reads one thing of this host."""

import hashlib
import os
from typing import Any

from xenhelper import beneath, config, paths, statefile, volumes, xendomains
from xenhelper.drbd import events
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import run

HEADER = "# xenhelper: resources of VM "
_SKEL = "/usr/share/xen-tools"


def records() -> dict[str, dict[str, str]]:
    """What this host replicates, by resource; without secrets, since these travel, and to
    hosts that have no part in some of them."""
    known = beneath.records()
    return {
        name: {key: value for key, value in one.items() if key != "secret"} for name, one in known.items()
    }


def shim() -> str:
    """What stands at /usr/local/sbin/xl."""
    from xenhelper.setup import host

    return host.shim_state()


def units(peer: str) -> dict[str, str]:
    """Unit -> ``enabled active``, as systemd says."""
    from xenhelper.setup import half

    wanted = half.unit_names(peer)
    enabled = run(["systemctl", "is-enabled", *wanted], timeout=20, ok=None).stdout.splitlines()
    active = run(["systemctl", "is-active", *wanted], timeout=20, ok=None).stdout.splitlines()
    if len(enabled) != len(wanted) or len(active) != len(wanted):
        # it says nothing of a unit that it doesn't know
        return {unit: _unit(unit) for unit in wanted}
    return {unit: f"{on} {now}" for unit, on, now in zip(wanted, enabled, active, strict=True)}


def _unit(unit: str) -> str:
    on = run(["systemctl", "is-enabled", unit], timeout=20, ok=None).stdout.strip() or "not-found"
    return f"{on} {run(['systemctl', 'is-active', unit], timeout=20, ok=None).stdout.strip() or 'unknown'}"


def link(peer: str) -> dict[str, Any]:
    """The device of the replication address, its MTU and speed (0: it doesn't say)."""
    from xenhelper.setup import host

    address = config.load().peer(peer).local_replication
    for item in host.addresses():
        if item["address"] == address:
            device = str(item["device"])
            base = f"{paths.ROOT}/sys/class/net/{device}"
            speed = _number(f"{base}/speed")
            return {"device": device, "mtu": _number(f"{base}/mtu"), "speed": max(0, speed)}
    return {"device": "", "address": address, "mtu": 0, "speed": 0}


def _number(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read().strip())
    except (OSError, ValueError):
        return 0


def files(known: dict[str, dict[str, str]], peer: str) -> dict[str, str]:
    """Resource files and VM configs of what is shared with ``peer``: path -> SHA-256, ''
    when there is none."""
    found = {}
    for vm in sorted({record.get("vm", "") for record in known.values() if record.get("peer") == peer}):
        found[f"/etc/drbd.d/{vm}.res"] = _digest(f"{paths.DRBD_D}/{vm}.res")
        where = (statefile.read(f"{paths.VMS}/{vm}") or {}).get("config", "")
        if where.startswith("/") and where != "/dev/null":
            found[where] = _digest(paths.ROOT + where)
    return found


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def up() -> dict[str, int]:
    """The kernel's resources."""
    return {name: state.minor for name, state in events.snapshot().items()}


def res_files() -> dict[str, list[str]]:
    """Our resource files: VM -> the resources in it."""
    found = {}
    for name in statefile.names(paths.DRBD_D):
        if not name.endswith(".res"):
            continue
        try:
            with open(f"{paths.DRBD_D}/{name}", encoding="utf-8", errors="replace") as file:
                text = file.read(1 << 20)
        except OSError:
            continue
        if text.startswith(HEADER):
            vm = text[len(HEADER) :].split(". ")[0]
            lines = (line for line in text.splitlines() if line.startswith('resource "'))
            found[vm] = [line.split('"')[1] for line in lines]
    return found


def tagged() -> dict[str, str]:
    """Volumes that bear our tags: path -> resource. A snapshot of a side that was given up
    isn't one (its tag is another)."""
    return {v.path: v.tag("resource") for v in volumes.volumes() if v.tag("resource")}


def groups(known: dict[str, dict[str, str]]) -> dict[str, dict[str, int]]:
    """The volume groups that are replicated."""
    from xenhelper.doctor import facts

    used = {named[0] for record in known.values() if (named := volumes.split_path(record.get("volume", "")))}
    return facts.group_facts(used | set(config.load().volume_groups))


def space() -> dict[str, list[int]]:
    """Folder -> [free, size] of the file systems that we write to."""
    found = {}
    for folder in ("/etc", "/var/lib"):
        state = os.statvfs(paths.ROOT + folder)
        found[folder] = [state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize]
    return found


def domains() -> list[dict[str, str]]:
    """Running domains: ``name`` and ``kind``."""
    import json

    from xenhelper.xen import description
    from xenhelper.xen.domains import real_xl

    listed = json.loads(run([real_xl(), "list", "-l"], timeout=30).stdout or "[]")
    described = [description.from_json(item) for item in listed if int(item.get("domid", 0)) != 0]
    return [{"name": one.name, "kind": one.kind, "replicated": str(bool(one.resources))} for one in described]


def cannot_migrate() -> dict[str, str]:
    """Kind of guest -> why this Xen can't migrate it."""
    from xenhelper import destination

    return destination.cannot_migrate()


def beneath_drbd() -> list[list[str]]:
    """Domains that run on a volume beneath DRBD: [vm, what, do]."""
    now = events.snapshot()
    return [[one.vm, one.what(), one.do(now.get(one.resource))] for one in beneath.scan()]


def xendomains_problem() -> str:
    """'' or what is wrong with /etc/default/xendomains."""
    return xendomains.problem(xendomains.text())


def drbdadm() -> str:
    """'' or why drbdadm refuses its configuration."""
    from xenhelper.drbd import adm

    return adm.unreadable()


def root_ssh(peer: str) -> str:
    """'' or why root's ssh to ``peer``, by its name as for `xl migrate`, fails."""
    from xenhelper.setup import half

    argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=8", "--", f"root@{peer}", "true"]
    try:
        run(argv, timeout=25, env={"HOME": "/root", **half.agent()})
    except CommandFailed as error:
        return (error.stderr.strip().splitlines() or ["no answer"])[-1].strip()[:200] or "no answer"
    return ""


def skeletons() -> list[str]:
    """xen-tools' hooks that write an apt source which Debian no longer has: since Debian 11
    the security archive is RELEASE-security, not RELEASE/updates."""
    found = []
    base = paths.ROOT + _SKEL
    for folder in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        path = f"{base}/{folder}/20-setup-apt"
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if "/updates" in text and "-security" not in text:
            found.append(f"{_SKEL}/{folder}/20-setup-apt")
    return found


def tuning() -> list[dict[str, Any]]:
    """What tune finds."""
    from dataclasses import asdict
    from importlib import import_module

    try:
        collect = import_module("xenhelper.tuning.findings").collect
    except ImportError:
        return []
    try:
        return [asdict(finding) for finding in collect()]
    except XenhelperError as error:
        raise XenhelperError(f"tuning: {error}") from error
