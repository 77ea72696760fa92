"""``xenhelper forget VM``: end a VM's replication; its data and its original config stay."""

import argparse

from xenhelper import forget
from xenhelper.errors import EXIT_DONE

HELP = "end a VM's replication and give its original config back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The VM and what is to become of the other copy."""
    parser.add_argument("vm", metavar="VM")
    parser.add_argument(
        "--delete-peer-volumes", action="store_true", help="also remove the copies of its disks on the peer"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """Forget it on both hosts."""
    for line in forget.run(args.vm, args.delete_peer_volumes, args.dry_run):
        print(("would " if args.dry_run else "") + line)
    return EXIT_DONE
