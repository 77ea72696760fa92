"""``xenhelper log [VM]``: what was done and decided, on both hosts, in the order of time."""

import argparse
import json
import sys
import time
from dataclasses import asdict

from xenhelper import beneath, insync, journal, names
from xenhelper.errors import EXIT_DONE, UsageError

HELP = "what was done and decided, of one VM or of all, on both hosts"
EXAMPLES = """\
  xenhelper log                        # all VMs, seven days
  xenhelper log web1 --since 12h
  xenhelper log web1 --here --json
"""
_UNITS = {"m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("vm", nargs="?", default="", metavar="VM", help="only this VM")
    parser.add_argument(
        "--since",
        default="7d",
        help="how far back: 30m, 12h, 7d (default), or a time as 2026-11-24T13:00:00Z",
    )
    parser.add_argument("-n", "--lines", type=int, default=200, help="the last so many entries (200)")
    parser.add_argument("--here", action="store_true", help="this host only")
    parser.add_argument("--json", action="store_true", help="one object a line")


def run(args: argparse.Namespace) -> int:
    """0. Raises UsageError."""
    vm = names.check_vm(args.vm) if args.vm else ""
    if not 1 <= args.lines <= journal.MAX_ENTRIES:
        raise UsageError(f"--lines {args.lines}: 1 to {journal.MAX_ENTRIES}")
    records = beneath.records().values()
    peers = {r.get("peer", "") for r in records if not vm or r.get("vm") == vm}
    asked = [] if args.here else sorted(peer for peer in peers if names.valid_host(peer))
    entries, silent = journal.both(vm, asked, _since(args.since, time.time()), args.lines)
    if args.json:
        for entry in entries:
            print(json.dumps(asdict(entry)))
    elif entries:
        print(journal.story(entries, bool(vm)))
    else:
        print(f"nothing is logged{f' of {vm}' if vm else ''} since then")
    for line in silent:
        print(f"xenhelper: {line}", file=sys.stderr)
    return EXIT_DONE


def _since(text: str, now: float) -> float:
    if text[-1:] in _UNITS and text[:-1].isdecimal():
        return now - int(text[:-1]) * _UNITS[text[-1]]
    when = insync.seconds(text)
    if when is None:
        raise UsageError(f"--since {text!r}", "30m, 12h, 7d, or a time as 2026-11-24T13:00:00Z (UTC)")
    return when
