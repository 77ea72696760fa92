"""A domain that libvirt restores: not from an image that is older than its disks.

The hook is called for a restore as for any start, and libvirt has unlinked a managed image
by then (libxlDomainStartNew); but it holds the image open. So the image is found among the
open files of the libvirt that called, by its header (libxl_conf.h, libxlSavefileHeader).
"""

import os

from xenhelper import paths, statefile
from xenhelper.errors import Refused

_MAGIC = b"libvirt-xml\n \0 \r"
_HEADER = 64
_MAX = 1 << 20


def check(vm: str, uuid: str, peer: str) -> None:
    """Raises Refused when the domain is restored from an image that no longer fits its disks."""
    saved = saved_at(os.getppid(), uuid)
    record = statefile.read(f"{paths.VMS}/{vm}")
    if saved is None or record is None:
        return
    from xenhelper import autostart, restore

    why = restore.stale(saved, record, autostart._ask(vm, peer), peer)
    if why:
        raise Refused(
            f"{vm}'s saved memory can't be restored: {why}; its disks have gone on since",
            f"`virsh start {vm}` starts it afresh (libvirt has dropped a managed image by now)",
        )


def saved_at(pid: int, uuid: str) -> "float | None":
    """When the image of this domain that process ``pid`` has open was written (seconds since
    1970); None when it has none."""
    folder = f"{paths.ROOT}/proc/{pid}/fd"
    try:
        numbers = os.listdir(folder)
    except OSError:
        return None
    for number in numbers:
        path = f"{folder}/{number}"
        try:
            link = os.readlink(path)
            # no socket, pipe or device is opened
            if not link.startswith("/") or link.startswith(("/dev/", "/proc/", "/sys/")):
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            head = os.pread(fd, _HEADER, 0)
            if len(head) < _HEADER or not head.startswith(_MAGIC):
                continue
            length = int.from_bytes(head[len(_MAGIC) + 4 : len(_MAGIC) + 8], "little")
            if f"<uuid>{uuid}</uuid>".encode() in os.pread(fd, min(length, _MAX), _HEADER).lower():
                return os.fstat(fd).st_mtime
        except OSError:
            continue
        finally:
            os.close(fd)
    return None
