"""``xenhelper forget VM``: end a VM's replication; its data and its original config stay."""

import argparse
import sys

from xenhelper import forget, names
from xenhelper.errors import EXIT_DONE, UsageError, XenhelperError

HELP = "end a VM's replication and give its original config back"
EXAMPLES = """\
  xenhelper forget web1 --dry-run
  xenhelper forget web1                # both hosts keep their copy
  xenhelper forget web1 --delete-peer-volumes
  xenhelper forget --all
  xenhelper forget web1 --left-over    # other hosts have it: remove the old copy here
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The VM, or all, and what is to become of the other copy."""
    parser.add_argument(
        "vm", metavar="VM", nargs="?", default="", help="the VM whose disks become plain volumes again"
    )
    parser.add_argument("--all", action="store_true", help="every replicated VM, one after the other")
    parser.add_argument(
        "--delete-peer-volumes", action="store_true", help="also remove the copies of its disks on the peer"
    )
    parser.add_argument(
        "--left-over",
        action="store_true",
        help="its second copy was moved away from this host: remove what is left of it here, data too",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """Forget on both hosts. With --all one that can't be forgotten doesn't hold up the
    others; the exit status is then the first such one's."""
    if bool(args.vm) == args.all:
        raise UsageError("name the VM, or say --all")
    if args.left_over:
        return _left_over(args)
    if not args.all:
        _one(args.vm, args)
        return EXIT_DONE
    status = EXIT_DONE
    for vm in forget.known():
        try:
            _one(vm, args)
        except XenhelperError as error:
            print(f"xenhelper: {error}", file=sys.stderr)
            status = status or error.exit_code
    return status


def _left_over(args: argparse.Namespace) -> int:
    from xenhelper import oldcopy

    if args.delete_peer_volumes or args.all:
        raise UsageError("--left-over is for one VM, and for this host only")
    for line in oldcopy.remove(names.check_vm(args.vm), args.dry_run):
        print(("would " if args.dry_run else "") + line)
    return EXIT_DONE


def _one(vm: str, args: argparse.Namespace) -> None:
    for line in forget.run(vm, args.delete_peer_volumes, args.dry_run):
        print(("would " if args.dry_run else "") + line)
