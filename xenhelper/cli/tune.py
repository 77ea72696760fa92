"""``xenhelper tune``: bring this host's values to what its hardware wants."""

import argparse
import json
import os
import sys

from xenhelper.errors import EXIT_DONE, EXIT_FAILED, UsageError

HELP = "set memory, weight, read-ahead, sync limits and buffers of this host"
EXAMPLES = """\
  xenhelper tune --show
  xenhelper tune --dry-run
  xenhelper tune
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="with --resync: only these VMs")
    parser.add_argument("--show", action="store_true", help="what is, what should be, why; changes nothing")
    parser.add_argument("--json", action="store_true", help="with --show: for programs")
    parser.add_argument(
        "--write", action="store_true", help="also write what only the boot loader and others' files can set"
    )
    parser.add_argument(
        "--resync",
        action="store_true",
        help="give existing resources, on both hosts and as they run, the resync settings of a new one",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would change, change nothing")


def run(args: argparse.Namespace) -> int:
    """0; 1 when something couldn't be set, with a line for each."""
    if args.json and not args.show:
        raise UsageError("--json goes with --show")
    if args.vm and not args.resync:
        raise UsageError("VMs are named with --resync only")
    if args.show:
        return _show(args.json)
    changed: list[str] = []
    failed: list[str] = []
    if args.resync:
        from xenhelper.tuning import resync

        changed, failed = resync.run(args.vm, args.dry_run)
    else:
        from xenhelper.tuning import story

        changed, failed = story.tune(args.dry_run)
        if args.write:
            from xenhelper import config
            from xenhelper.tuning import bootfiles

            found = bootfiles.decide(bootfiles.facts(), config.load().tuning)
            written = bootfiles.write(found, args.dry_run)
            changed, failed = changed + written[0], failed + written[1]
    for line in changed:
        print(("would: " if args.dry_run else "") + line)
    for line in failed:
        print(f"xenhelper: {line}", file=sys.stderr)
    if not changed and not failed:
        print("nothing to change")
    return EXIT_FAILED if failed else EXIT_DONE


def _show(as_json: bool) -> int:
    from xenhelper.tuning import story

    shown = story.look_at_all()
    print(json.dumps(story.as_json(shown, os.uname().nodename), indent=1) if as_json else story.text(shown))
    return EXIT_DONE
