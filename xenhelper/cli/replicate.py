"""``xenhelper replicate CFG``: what ``xl create`` does before it starts the VM, and no more."""

import argparse
import os

from xenhelper import create, replicate, rewrite
from xenhelper.cli import plan
from xenhelper.errors import EXIT_DONE, XenhelperError

HELP = "replicate a VM's disks without starting it"
EXAMPLES = """\
  xenhelper replicate /etc/xen/web1.cfg --dry-run
  xenhelper replicate /etc/xen/web1.cfg --peer bob
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, peer, dry run."""
    parser.add_argument("config", metavar="CFG", help="the VM's config file")
    parser.add_argument("--peer", default="", metavar="HOST", help="the host that takes the copies")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def run(args: argparse.Namespace) -> int:
    """Do it; the first sync goes on in the background."""
    if args.dry_run:
        return plan.show(args.config, [], args.peer)
    try:
        outcome = replicate.run(create.request_for(os.path.realpath(args.config), [], args.peer))
    except XenhelperError as error:
        create.show_details(error)
        raise
    for item in outcome.found.decisions:
        if item not in outcome.found.replicated:
            print(f"{item.vdev}: left alone, {item.reason}")
    if not outcome.found.replicated:
        rewrite.drop_block(outcome.found)
    for disk in outcome.fresh:
        print(f"{disk.vdev}: replicated with {outcome.found.peer} as {disk.resource}, first sync runs")
    if not outcome.fresh:
        print("nothing was to be set up")
    return EXIT_DONE
