"""Mark the volumes beneath DRBD for udev/59-xenhelper.rules: what is on them is a guest's.

mdadm would otherwise assemble, at boot and before DRBD attaches, an array whose members
a guest keeps on them, and LVM or udisks find its file systems. In /var/lib, since udev
looks when a volume is activated, before anything of ours runs.
"""

import os

from xenhelper import paths, statefile, volumes

FOLDER = paths.STATE + "/volumes"


def mark(volume: str) -> None:
    """``volume`` (/dev/VG/LV) is a guest's. Does nothing when it is marked already."""
    path = _path(volume)
    if path and not os.path.exists(path):
        statefile.write_atomically(path, b"", 0o600)


def unmark(volume: str) -> None:
    """It is no longer."""
    path = _path(volume)
    if path:
        statefile.remove(path)
        for folder in (os.path.dirname(path), FOLDER):
            try:
                os.rmdir(folder)
            except OSError:
                return


def _path(volume: str) -> str:
    named = volumes.split_path(volume)
    return f"{FOLDER}/{named[0]}/{named[1]}" if named else ""
