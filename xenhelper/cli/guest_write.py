"""``xenhelper guest-write DEVICE``: the part of guest-install inside a mount namespace."""

import argparse
import os

from xenhelper.errors import EXIT_DONE, Refused
from xenhelper.tuning import guest_install, guest_write

HELP = ""  # not for people


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The promoted DRBD device."""
    parser.add_argument("device", metavar="DEVICE")


def run(args: argparse.Namespace) -> int:
    """0, or guest_write.NOT_A_ROOT with a reason printed. Raises XenhelperError."""
    # were it typed by hand, what it mounts would show to the whole host
    if os.readlink("/proc/self/ns/mnt") == os.readlink("/proc/1/ns/mnt"):
        raise Refused("guest-write runs in a mount namespace of its own", "xenhelper guest-install VM")
    reason = guest_write.write(args.device, guest_install.DEB)
    if reason:
        print(reason)
        return guest_write.NOT_A_ROOT
    return EXIT_DONE
