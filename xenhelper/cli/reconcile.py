"""``xenhelper reconcile``: put right what an interrupted change left."""

import argparse
import sys

from xenhelper import log, reconcile
from xenhelper.errors import EXIT_DONE, EXIT_FAILED, UsageError

HELP = "finish or undo what an interrupted change left, on this host"
EXAMPLES = """\
  xenhelper reconcile --dry-run
  xenhelper reconcile web1
  xenhelper reconcile --from-volumes --dry-run  # after dom0 was reinstalled
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The VMs to look at; all without any."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="only these VMs")
    parser.add_argument(
        "--from-volumes",
        action="store_true",
        help="dom0 was reinstalled: rebuild files and records from the tags on the volumes and the peer",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when nothing is left for a person, else 1 with a line for each."""
    if args.from_volumes:
        return _from_volumes(args)
    left = reconcile.reconcile(args.vm or None, args.dry_run)
    if not log.has_stderr():  # each line is there already
        for line in left:
            print(line, file=sys.stderr)
    return EXIT_FAILED if left else EXIT_DONE


def _from_volumes(args: argparse.Namespace) -> int:
    from xenhelper import rebuild

    if args.vm:
        raise UsageError("--from-volumes looks at all volumes: name no VM")
    done, left = rebuild.from_volumes(args.dry_run)
    for line in done:
        print(line)
    for line in left:
        print(f"xenhelper: {line}", file=sys.stderr)
    if not done and not left:
        print("nothing is missing")
    return EXIT_FAILED if left else EXIT_DONE
