"""The part of guest-install that has a guest's file system mounted. Run in a mount
namespace of its own, which ends with this process: nothing stays mounted, whatever happens.

The mount takes no device, no set-uid bit, no program and no symbolic link from the guest
(nodev, nosuid, noexec, nosymfollow: mount(8)), and every folder is opened from the one
above it.
"""

import os
import stat

from xenhelper import paths
from xenhelper.errors import XenhelperError
from xenhelper.run import run

NOT_A_ROOT = 10  # exit status: not this disk; why is printed
KNOWN = ("ext2", "ext3", "ext4", "xfs")
# what a Debian with systemd has, and what is a link in none
MARKS = ("etc/debian_version", "var/lib/dpkg/status", "etc/systemd/system")
_SAFE = "nodev,nosuid,noexec,nosymfollow"
UNIT = "xenhelper-guest-install.service"
UNIT_TEXT = f"""\
[Unit]
Description=Install xenhelper-guest, which this guest's host has put here
ConditionPathExists=/var/cache/xenhelper/xenhelper-guest.deb
After=local-fs.target

[Service]
Type=oneshot
ExecStart=/usr/bin/dpkg --install /var/cache/xenhelper/xenhelper-guest.deb
ExecStart=/bin/rm -rf /var/cache/xenhelper
ExecStart=/bin/rm -f /etc/systemd/system/multi-user.target.wants/{UNIT} /etc/systemd/system/{UNIT}
# another dpkg may be at work
Restart=on-failure
RestartSec=30

[Install]
WantedBy=multi-user.target
"""


def write(device: str, deb: str) -> str:
    """Leave ``deb`` and its unit on ``device``. Returns '', or why this isn't a root file
    system that we know; nothing was written then. Raises XenhelperError."""
    kind = file_system(run(["blkid", "-p", "-o", "export", device], timeout=30, ok=(0, 2)).stdout)
    if kind not in KNOWN:
        return kind
    place = f"{paths.RUN}/guest"
    os.makedirs(place, mode=0o700, exist_ok=True)
    replay = ",noload" if kind.startswith("ext") else ",norecovery"
    _mount(device, place, kind, f"ro{replay}")
    try:
        missing = [mark for mark in MARKS if not _there(place, mark)]
    finally:
        _unmount(place)
    if missing:
        return f"no Debian with systemd: it lacks /{missing[0]}"
    with open(deb, "rb") as file:
        package = file.read()
    _mount(device, place, kind, "rw")
    try:
        _leave(place, package)
    finally:
        _unmount(place)
    return ""


def file_system(said: str) -> str:
    """The type from ``blkid -p -o export``, or in words why there is none that we know."""
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    kind = found.get("TYPE", "")
    if kind in KNOWN:
        return kind
    if kind:
        return f"{kind} isn't a file system that xenhelper writes to"
    return "it has partitions" if "PTTYPE" in found else "no file system"


def _mount(device: str, place: str, kind: str, how: str) -> None:
    run(["mount", "-t", kind, "-o", f"{how},{_SAFE}", device, place], timeout=60)


def _unmount(place: str) -> None:
    run(["umount", place], timeout=60)


def _there(place: str, path: str) -> bool:
    try:
        return not stat.S_ISLNK(os.lstat(f"{place}/{path}").st_mode)
    except OSError:
        return False


def _leave(place: str, package: bytes) -> None:
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _file(root, "var/cache/xenhelper", "xenhelper-guest.deb", package)
        _file(root, "etc/systemd/system", UNIT, UNIT_TEXT.encode())
        wants = _folder(root, "etc/systemd/system/multi-user.target.wants")
        try:
            os.symlink(f"../{UNIT}", UNIT, dir_fd=wants)
        except FileExistsError:
            pass
        finally:
            os.close(wants)
    finally:
        os.close(root)


def _folder(root: int, path: str) -> int:
    """A descriptor of the folder, made where it is missing, with no link followed."""
    at = os.dup(root)
    for name in path.split("/"):
        try:
            try:
                os.mkdir(name, 0o755, dir_fd=at)
            except FileExistsError:
                pass
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        except OSError as error:
            raise XenhelperError(f"/{path} in the guest can't be used: {error.strerror}") from error
        finally:
            os.close(at)
        at = below
    return at


def _file(root: int, folder: str, name: str, data: bytes) -> None:
    at = _folder(root, folder)
    try:
        try:
            os.unlink(name, dir_fd=at)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=at)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    finally:
        os.close(at)
