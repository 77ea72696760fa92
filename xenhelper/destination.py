"""What a migration's destination must offer, looked at there before anything starts."""

import os

from xenhelper import names, paths
from xenhelper.drbd import events
from xenhelper.errors import CommandFailed, Refused
from xenhelper.run import run
from xenhelper.xen import domains

# what a domain costs beside its memory: page tables, shadow or HAP pool, video (libxl_internal.h)
OVERHEAD_KIB = 8 * 1024
_TESTED_DRBD = ("8.",)


def drbd_version() -> str:
    """The loaded kernel module's version, empty when there is none."""
    try:
        with open(paths.ROOT + "/sys/module/drbd/version", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def xen_info() -> "dict[str, str]":
    """``xl info`` as a mapping. Raises CommandFailed."""
    found = {}
    for line in run([domains.real_xl(), "info"], timeout=10).stdout.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found[key.strip()] = value.strip()
    return found


def can_migrate(kind: str, info: "dict[str, str]") -> str:
    """Empty, or why this Xen can't migrate a guest of this kind. A PV guest's dirty pages
    are tracked by shadow paging, which Debian's Xen is built without."""
    caps = info.get("virt_caps", "").split()
    if kind == "pv" and "shadow" not in caps:
        return 'this Xen is built without shadow paging, so PV guests can\'t be migrated live; use type="pvh"'
    if kind in ("hvm", "pvh") and "hvm" not in caps and "hvm_directio" not in caps:
        return "no hardware virtualisation for it"
    return ""


def cannot_migrate() -> "dict[str, str]":
    """Kind of guest -> why this Xen can't migrate it. Raises CommandFailed."""
    info = xen_info()
    found = {kind: can_migrate(kind, info) for kind in ("pv", "pvh", "hvm")}
    return {kind: why for kind, why in found.items() if why}


def autoballoon(info: "dict[str, str]") -> bool:
    """Whether xl makes room by shrinking dom0 (xl.conf(5): auto is off with dom0_mem=)."""
    value = "auto"
    try:
        with open(paths.ROOT + "/etc/xen/xl.conf", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, equals, rest = line.partition("=")
                if equals and key.strip() == "autoballoon":
                    value = rest.split("#")[0].strip().strip("\"'")
    except OSError:
        pass
    if value == "auto":
        return "dom0_mem=" not in info.get("xen_commandline", "")
    return value in ("on", "1")


def check(
    vm: str, memory_kib: int, bridges: "list[str]", files: "list[str]", kind: str, resources: "list[str]"
) -> None:
    """Raises Refused with everything that is missing on this host for ``vm`` to come here."""
    host = os.uname().nodename
    missing = []
    info = xen_info()
    free_kib = int(info.get("free_memory", "0")) * 1024
    if memory_kib + OVERHEAD_KIB > free_kib and not autoballoon(info):
        need = (memory_kib + OVERHEAD_KIB + 1023) // 1024
        missing.append(f"{need} MiB of memory for it (Xen has {free_kib // 1024} MiB free)")
    missing += [
        f"bridge {name}" for name in bridges if not os.path.isdir(f"{paths.ROOT}/sys/class/net/{name}/bridge")
    ]
    missing += [f"file {path}" for path in files if not os.path.isfile(paths.ROOT + path)]
    reason = can_migrate(kind, info)
    if reason:
        missing.append(f"an able Xen ({reason})")
    version = drbd_version()
    if not version:
        missing.append("the drbd module (`modprobe drbd`)")
    elif not version.startswith(_TESTED_DRBD):
        missing.append(f"a tested DRBD (8.x; it has {version})")
    if not _module("xen_blkback", "xen-blkback"):
        missing.append("the xen-blkback module (`modprobe xen-blkback`)")
    if not os.access(f"{paths.ROOT}/etc/xen/scripts/{paths.BLOCK_SCRIPT}", os.X_OK):
        missing.append(f"/etc/xen/scripts/{paths.BLOCK_SCRIPT}")
    here = domains.find(vm)
    if here:
        missing.append(f"the name free: {here[0].name} is there already")
    for name in resources:
        resource = events.one(name)
        if resource is None or not resource.in_sync:
            missing.append(f"{name} Connected and UpToDate ({resource or 'not up'})")
        elif resource.role == events.PRIMARY:
            missing.append(f"{name} free: it is Primary there already")
    if missing:
        raise Refused(f"{host} lacks for {vm}: {'; '.join(missing)}")


def _module(name: str, modprobe: str) -> bool:
    path = f"{paths.ROOT}/sys/module/{name}"
    if os.path.isdir(path):
        return True
    try:
        run(["modprobe", modprobe], timeout=10)
    except CommandFailed:
        return False
    return os.path.isdir(path)


def serve_check(peer: str, args: "dict[str, object]") -> "dict[str, object]":
    """Verb ``destination-check``."""
    strings = {key: [str(item) for item in list(args[key])] for key in ("bridges", "files", "resources")}  # type: ignore[call-overload]
    check(
        names.check_vm(str(args["vm"])),
        int(str(args["memory_kib"])),
        strings["bridges"],
        strings["files"],
        str(args["kind"]),
        [names.check_resource(name) for name in strings["resources"]],
    )
    return {}


def serve_runs(peer: str, args: "dict[str, str]") -> "dict[str, object]":
    """Verb ``runs``: this host's domains of a VM, under whichever name."""
    found = domains.find(names.check_vm(args["vm"]))
    return {
        "domains": [
            {"name": domain.name, "domid": domain.domid, "state": domain.state, "uuid": domain.uuid}
            for domain in found
        ]
    }
