"""``xenhelper evacuate``: all VMs off this host for maintenance, and back."""

import argparse
import sys

from xenhelper import evacuate
from xenhelper.errors import EXIT_DONE, EXIT_FAILED, UsageError

HELP = "migrate every VM off this host, one by one, and back"
EXAMPLES = """\
  xenhelper evacuate --dry-run
  xenhelper evacuate           # before maintenance
  xenhelper evacuate --return  # after it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which way."""
    parser.add_argument(
        "--return", dest="back", action="store_true", help="bring back what an evacuation moved"
    )
    parser.add_argument("--at-shutdown", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when none stays behind."""
    if args.at_shutdown:
        if args.back or args.dry_run:
            raise UsageError("--at-shutdown is for xenhelper-evacuate.service")
        evacuate.at_shutdown()
        return EXIT_DONE
    act = evacuate.bring_back if args.back else evacuate.run
    left = act(lambda line: print(line, flush=True), args.dry_run)
    if left and not args.dry_run:
        print(f"xenhelper: {len(left)} of them not moved; {left[0]}", file=sys.stderr)
    return EXIT_FAILED if left else EXIT_DONE
