"""``xenhelper guest-install VM``: the guest's package, into a VM that is off."""

import argparse

from xenhelper.errors import EXIT_DONE
from xenhelper.tuning import guest_install

HELP = "put the guest's package, which sets its read-ahead, into a VM that is off"
EXAMPLES = """\
  xenhelper guest-install web1 --dry-run
  xenhelper guest-install web1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("vm", metavar="VM", help="a VM whose disk is on this host")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when the package is there. Raises XenhelperError."""
    print(("would: " if args.dry_run else "") + guest_install.run(args.vm, args.dry_run))
    return EXIT_DONE
