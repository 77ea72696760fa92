"""``xenhelper recover VM --discard HOST``: end a split brain."""

import argparse
import sys

from xenhelper import recover
from xenhelper.errors import EXIT_DONE, Refused

HELP = "end a split brain: give up what one host wrote"
EXAMPLES = """\
  xenhelper recover web1 --discard bob --dry-run
  xenhelper recover web1 --discard bob
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The VM, and whose writes go."""
    parser.add_argument("vm", metavar="VM", help="the VM whose disks are apart")
    parser.add_argument("--discard", metavar="HOST", required=True, help="the host whose writes are given up")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.add_argument("--dry-run", action="store_true", help="only tell both sides' story")


def run(args: argparse.Namespace) -> int:
    """0 once the discarded side syncs from the other."""

    def confirm(what: str) -> bool:
        if args.yes:
            return True
        if not sys.stdin.isatty():
            raise Refused(f"{args.vm}: nobody to ask", "add --yes")
        answer = input(f"{what} Type {args.discard} to go on: ").strip()
        return answer == str(args.discard)

    recover.run(args.vm, args.discard, args.dry_run, print, confirm)
    return EXIT_DONE
