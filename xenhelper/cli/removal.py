"""``xenhelper removal``, by the package before it goes: every VM gets its plain disks back."""

import argparse

from xenhelper import forget
from xenhelper.errors import EXIT_DONE, PeerFailed, PeerUnreachable, XenhelperError

HELP = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> int:
    """Always 0: a package that is to go isn't held up by what must stay; that is said."""
    for vm in forget.known():
        try:
            try:
                lines = forget.run(vm)
            except (PeerUnreachable, PeerFailed) as error:
                lines = forget.alone(vm, error.what)
        except XenhelperError as error:
            lines = [f"{vm} stays as it is: {error}"]
        for line in lines:
            print(line)
    return EXIT_DONE
