"""``xenhelper doctor``: what is wrong on both hosts, each with its remedy."""

import argparse
import json
from dataclasses import asdict

from xenhelper import config
from xenhelper.doctor import examine
from xenhelper.doctor.finding import ERROR
from xenhelper.errors import EXIT_DONE, EXIT_FAILED, UsageError

HELP = "look at both hosts: what is wrong, what to type"
EXAMPLES = """\
  xenhelper doctor
  xenhelper doctor --fix --dry-run
  xenhelper doctor --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument(
        "--fix",
        action="store_true",
        help="first put right here what setup made and is gone: units, xl's link",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --fix: only say what it would do")
    parser.add_argument("--json", action="store_true", help="for programs; the format is a contract")


def run(args: argparse.Namespace) -> int:
    """1 when there is an error among the findings, else 0."""
    if args.dry_run and not args.fix:
        raise UsageError("--dry-run goes with --fix", "doctor alone changes nothing")
    if args.fix:
        from xenhelper.doctor import fix

        for line in fix.run(config.load(), args.dry_run):
            if not args.json:
                print(f"{'would ' if args.dry_run else ''}{line}")
    found = examine.examine()
    if args.json:
        print(json.dumps({"findings": [asdict(one) for one in found]}, indent=1))
    else:
        for one in found:
            print(f"{one.severity}: {one.what}\n  do: {one.do}")
        if not found:
            print("nothing found")
    return EXIT_FAILED if any(one.severity == ERROR for one in found) else EXIT_DONE
