"""``xenhelper convert VM``: disks that were replicated by hand for block-drbd are taken over."""

import argparse

from xenhelper import convert, create
from xenhelper.errors import EXIT_DONE, XenhelperError

HELP = "take over a VM that was replicated by hand for block-drbd"
EXAMPLES = """\
  xenhelper convert old1 --dry-run     # what would change on both hosts
  xenhelper convert old1               # the VM is shut down; its data stays as it is
  xenhelper convert /etc/xen/old1.cfg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The VM."""
    parser.add_argument("vm", metavar="VM|CFG", help="the VM, by its name or its config file")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when it is converted, or was."""
    try:
        lines = convert.run(convert.config_of(args.vm), args.dry_run)
    except XenhelperError as error:
        create.show_details(error)
        raise
    for line in lines:
        print(("would: " if args.dry_run else "") + line)
    return EXIT_DONE
