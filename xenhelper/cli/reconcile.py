"""``xenhelper reconcile``: put right what an interrupted change left."""

import argparse
import sys

from xenhelper import reconcile
from xenhelper.errors import EXIT_DONE, EXIT_FAILED

HELP = "finish or undo what an interrupted change left, on this host"
EXAMPLES = """\
  xenhelper reconcile --dry-run
  xenhelper reconcile web1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The VMs to look at; all without any."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="only these VMs")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when nothing is left for a person, else 1 with a line for each."""
    left = reconcile.reconcile(args.vm or None, args.dry_run)
    for line in left:
        print(line, file=sys.stderr)
    return EXIT_FAILED if left else EXIT_DONE
