"""``xenhelper grow VM VDEV SIZE``: a replicated disk becomes larger, its guest running."""

import argparse
import time

from xenhelper import grow, intents
from xenhelper.drbd import events
from xenhelper.errors import EXIT_DONE, Refused

HELP = "make a replicated disk larger on both hosts"
EXAMPLES = """\
  xenhelper grow web1 xvda +10G --dry-run
  xenhelper grow web1 xvda +10G        # the guest sees it at once
  xenhelper grow web1 xvda 40G --wait  # after a resync, if one runs
"""
# seconds between two looks at a resync
_STEP = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The disk and its new size."""
    parser.add_argument("vm", metavar="VM", help="the VM, running or not")
    parser.add_argument("vdev", metavar="VDEV", help="the disk as the guest names it: xvda")
    parser.add_argument("size", metavar="SIZE", help="the new size (20G), or what is added (+10G): M, G, T")
    parser.add_argument(
        "--wait", action="store_true", help="when a resync has to end first, wait for that, too"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """0 when it is done, or goes on by itself after a resync."""
    lines, done = grow.run(args.vm, args.vdev, args.size, args.dry_run)
    for line in lines:
        print(("would: " if args.dry_run else "") + line, flush=True)
    while args.wait and not done and not args.dry_run:
        intent = intents.read(grow.KIND, args.vm)
        if intent is None:
            print(f"{args.vm} {args.vdev}: done by the reconciler")
            break
        state = events.one(intent["resource"])
        if state is None or not state.connected:
            raise Refused(
                f"{intent['resource']} has lost its peer", "it is grown by itself once both are in sync again"
            )
        if state.replication != "Established":
            time.sleep(_STEP)
            continue
        lines, done = grow.run(args.vm, args.vdev, args.size)
        if done:
            print("\n".join(lines))
        else:
            time.sleep(_STEP)
    return EXIT_DONE
