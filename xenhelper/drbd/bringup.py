"""Bring managed resources up, from their own files only.

``drbdadm`` reads a small configuration of ours that includes just the VM's file, so that
a foreign file that doesn't parse can't keep a guest from starting.
"""

import os

from xenhelper import names, paths, statefile
from xenhelper.drbd import events
from xenhelper.errors import CommandFailed, XenhelperError
from xenhelper.run import run


def vm_file(vm: str) -> str:
    """The VM's resource file (contract)."""
    return f"{paths.DRBD_D}/{names.check_vm(vm)}.res"


def adm(vm: str, *words: str, timeout: float = 20.0) -> None:
    """``drbdadm WORDS`` with only the VM's file in view. Raises CommandFailed."""
    path = vm_file(vm)
    if not os.path.isfile(path):
        raise XenhelperError(
            f"{vm}: {path} is missing", "`xenhelper reconcile` or copy it from the other host"
        )
    _check_names_us(vm, path)
    # -c FILE: drbdadm(8); the file itself is a whole configuration
    run(["drbdadm", "-c", path, *words], timeout=timeout)


def _check_names_us(vm: str, path: str) -> None:
    """DRBD finds its own section by the host's name: one that was changed finds none."""
    host = os.uname().nodename
    with open(path, encoding="utf-8", errors="replace") as file:
        hosts = [line.split('"')[1] for line in file if line.startswith('    on "')]
    if hosts and host not in hosts:
        raise XenhelperError(
            f"{vm}: {path} is for {' and '.join(sorted(set(hosts)))}, and this host is called {host} now",
            "give it its name back: `hostnamectl hostname NAME`",
        )


def up(vm: str, resource: str) -> None:
    """Attach and connect one resource; two-primaries is no by its file. Doesn't wait for
    the peer. Running it on a resource that is up changes nothing. Raises XenhelperError."""
    try:
        adm(vm, "adjust", names.check_resource(resource))
    except CommandFailed as error:
        raise explained([resource], error) from error


def explained(resources: "list[str]", error: CommandFailed) -> XenhelperError:
    """Why resources didn't come up: a volume that was renamed, removed or isn't active, in a line
    of its own; else what DRBD said."""
    from xenhelper import lost, volumes

    for resource in resources:
        record = statefile.read(f"{paths.RESOURCES}/{resource}") or {}
        path = lost.missing(record)
        found = lost.explain(record, path, volumes.volumes()) if path else None
        if found is not None:
            return found
    return error


def first_up(vm: str, resource: str) -> None:
    """The same for a resource that isn't up, at boot say. DRBD may remember from then that
    the other copy was outdated: that was another boot's knowledge, since when the other
    host may have been made to go on; it is marked as such. Raises CommandFailed."""
    up(vm, resource)
    state = events.one(resource)
    if state is not None and not state.connected and state.peer_disk in events.OUTDATED_OR_WORSE:
        statefile.write(hearsay(resource), {"peer_disk": state.peer_disk})


def hearsay(resource: str) -> str:
    """The mark that the peer's disk state is what an earlier boot knew."""
    return f"{paths.RUN}/hearsay/{names.check_resource(resource)}"


def down(vm: str, resource: str) -> None:
    """Disconnect and detach one resource. Raises CommandFailed when it is in use."""
    adm(vm, "down", names.check_resource(resource))


def mark_minor(minor: int) -> None:
    """Tell udev/59-xenhelper.rules that this minor is a guest's, not to be probed."""
    folder = paths.RUN + "/minors"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.close(os.open(f"{folder}/{int(minor)}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
