"""At boot, before xendomains: bring up every resource that xenhelper manages here.

Never waits for a peer, and two-primaries is `no` by the files; one resource that can't
come up doesn't keep the others down.
"""

import os

from xenhelper import log, names, paths, statefile
from xenhelper.drbd import bringup, events
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import run

MODULES = ("drbd", "xen-blkback")


def resources_up() -> list[str]:
    """One line for each resource that isn't up afterwards."""
    statefile.remove(paths.STOPPING)
    for module in MODULES:
        try:
            run(["modprobe", module], timeout=30)
        except CommandFailed as error:
            log.event("failed", f"module {module}: {error}", log.WARNING)
    wanted = statefile.names(paths.RESOURCES)
    # what is up stays as it is: adjusting it could close a migration's window
    there = set(events.snapshot()) if wanted else set()
    failed = []
    for name in wanted:
        if name in there:
            continue
        try:
            _up(name)
        except XenhelperError as error:
            failed.append(f"{name}: {error}")
            log.event("failed", f"{name} is not up: {error}", log.ERROR, resource=name)
    if wanted:
        up = len(wanted) - len(failed)
        log.event("note", f"{up} of {len(wanted)} resources are up", log.INFO)
    return failed


def _up(name: str) -> None:
    record = statefile.read(f"{paths.RESOURCES}/{names.check_resource(name)}")
    if record is None or "vm" not in record:
        raise XenhelperError("its record names no VM", f"see {paths.RESOURCES}/{name}")
    minor = record.get("minor", "")
    if minor.isdecimal():
        bringup.mark_minor(int(minor))
    bringup.first_up(record["vm"], name)


def shutting_down() -> bool:
    """Whether systemd takes this host down now (stopping just our unit isn't that)."""
    said = run(["systemctl", "is-system-running"], timeout=10, ok=None).stdout.strip()
    return said == "stopping"


def stop() -> list[str]:
    """The host goes down, its guests are down: leave what ran here to the other host, on
    record. Returns a line for each VM; nothing happens while the host stays up."""
    if not statefile.names(paths.RESOURCES) or not shutting_down():
        return []
    from xenhelper import ceded

    statefile.write(paths.STOPPING, {"pid": str(os.getpid())})
    return ceded.cede_all()
