"""``xenhelper takeover``: the other host is dead; its VMs may start here."""

import argparse
import sys
from datetime import datetime

from xenhelper import names, takeover
from xenhelper.errors import EXIT_DONE, EXIT_REFUSED, UsageError

HELP = "the other host is dead: let its VMs start here"
EXAMPLES = """\
  xenhelper takeover web1 --dry-run    # how old is the data here?
  xenhelper takeover web1
  xenhelper takeover --all --peer-is-dead
  xenhelper takeover web1 --peer-is-dead --accept-data-as-of 2026-03-01T12:00:00Z
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which VMs, and what the operator vouches for."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="the VMs to let start here")
    parser.add_argument("--all", action="store_true", help="all VMs whose other copy is on the dead host")
    parser.add_argument(
        "--peer", default="", metavar="HOST", help="with --all: those whose other copy is on HOST"
    )
    parser.add_argument(
        "--peer-is-dead", action="store_true", help="you know that the other host is off and stays off"
    )
    parser.add_argument(
        "--accept-data-as-of",
        metavar="TIME",
        help="go on with data as old as this: 2026-03-01T12:00:00Z, or local time without the Z",
    )
    parser.add_argument(
        "--left-over",
        action="store_true",
        help="it was moved away from this host, and the hosts that have it are lost: use the old copy here",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what is at stake")


def moment(text: str) -> float:
    """Seconds since 1970. Raises UsageError."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text[:60]!r} is no time", "write it as 2026-03-01T12:00:00Z") from error


def run(args: argparse.Namespace) -> int:
    """0 when all may start, 3 when some of --all may not."""
    if bool(args.vm) == args.all:
        raise UsageError("name the VMs, or say --all")
    if args.peer and not args.all:
        raise UsageError("--peer chooses from --all")
    accept = moment(args.accept_data_as_of) if args.accept_data_as_of else None
    if args.left_over:
        from xenhelper import oldcopy

        if len(args.vm) != 1:
            raise UsageError("--left-over is for one VM")
        line = oldcopy.revive(names.check_vm(args.vm[0]), args.peer_is_dead, args.dry_run)
        print(("would " if args.dry_run else "") + line)
        if args.dry_run:
            return EXIT_DONE
    refused = takeover.run(args.vm, args.all, args.peer_is_dead, accept, args.dry_run, print, args.peer)
    for line in refused:
        print(f"xenhelper: {line}", file=sys.stderr)
    return EXIT_REFUSED if refused else EXIT_DONE
