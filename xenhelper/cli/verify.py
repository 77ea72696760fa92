"""``xenhelper verify``: compare both copies of each disk; mend them from the good side."""

import argparse
import json
import os
import sys
import time
from datetime import datetime
from typing import TextIO

from xenhelper import config, log, paths, statefile, units
from xenhelper.drbd import events
from xenhelper.errors import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, Busy, UsageError, XenhelperError
from xenhelper.progress import Progress
from xenhelper.verify import drive, repair, results, schedule, stop

HELP = "compare both copies of each disk; with --repair, copy what differs from the good side"
EXAMPLES = """\
  xenhelper verify web1
  xenhelper verify --json
  xenhelper verify web1 --repair --good alice
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See --help."""
    parser.add_argument("vm", nargs="*", metavar="VM", help="only these VMs' disks")
    parser.add_argument("--repair", action="store_true", help="mend what is known to differ, then be done")
    parser.add_argument("--good", metavar="HOST", help="the host whose blocks are right (with --repair)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="the results for programs")
    # for xenhelper-verify.service: in the configured hours, whose turn it is
    parser.add_argument("--scheduled", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """0: the copies are the same; 1: they differ; 3: something couldn't be compared."""
    if bool(args.repair) != bool(args.good):
        raise UsageError("--repair needs --good HOST, the host whose blocks are right, and the other way")
    if args.repair and not args.vm:
        raise UsageError("--repair needs the VMs to be named")
    if args.scheduled:
        return _scheduled()
    chosen = _chosen(args.vm)
    if args.repair:
        return _repair(args, chosen)
    settings = config.load()
    if args.dry_run:
        for record in chosen:
            size = int(record.get("size_bytes") or 0)
            minutes = size / (settings.verify_rate * units.MIB) / 60
            print(f"{record['resource']}: {units.size(size)}, {minutes:.0f} minutes at least")
        return EXIT_DONE
    return _compare(chosen, settings, args.json)


def _chosen(vms: list[str]) -> list[dict[str, str]]:
    """The disks of these VMs, or all that are replicated here."""
    records = [drive.check_known(name) for name in statefile.names(paths.RESOURCES)]
    missing = sorted(set(vms) - {record["vm"] for record in records})
    if missing:
        raise XenhelperError(
            f"{', '.join(missing)}: not replicated on this host", "`xenhelper status` lists all"
        )
    return [record for record in records if not vms or record["vm"] in vms]


def _compare(chosen: list[dict[str, str]], settings: config.Config, as_json: bool) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    found, refused = [], []
    held = stop.lock()
    try:
        for record in chosen:
            bar = _Bar(record["resource"], sys.stderr if as_json else sys.stdout)
            try:
                limits = drive.Limits(settings.verify_rate * units.MIB)
                result = drive.run(record, limits, bar.show, resume=False)
                bar.end()
            except XenhelperError as error:
                bar.end()
                refused.append(str(error))
                print(f"xenhelper: {error}", file=sys.stderr)
                continue
            found.append(result)
            say(f"{result.resource}: {results.tell(result)}")
            if result.differing:
                say(
                    f"  do: find out which host's blocks are right, then `xenhelper verify {result.vm} "
                    f"--repair --good HOST`"
                )
    finally:
        os.close(held)
    if as_json:
        print(json.dumps({"results": [result.public() for result in found], "refused": refused}, indent=1))
    if any(result.differing for result in found):
        return EXIT_FAILED
    return EXIT_REFUSED if refused else EXIT_DONE


class _Bar:
    """How far one disk's comparison has come; nothing before it has begun."""

    def __init__(self, resource: str, stream: TextIO) -> None:
        self.resource, self.stream = resource, stream
        self._progress: Progress | None = None

    def show(self, at: int, size: int) -> None:
        """``at`` of ``size`` bytes are compared."""
        if self._progress is None:
            self._progress = Progress(f"{self.resource}: compared", size, stream=self.stream)
        self._progress.add(at - self._progress.done)

    def end(self) -> None:
        """What comes next starts on a line of its own."""
        if self._progress is not None:
            self._progress.end()


def _repair(args: argparse.Namespace, chosen: list[dict[str, str]]) -> int:
    done = []

    def say(line: str) -> None:
        done.append(line)
        if not args.json:
            print(line, flush=True)

    for vm in args.vm:
        if not repair.run(vm, [r for r in chosen if r["vm"] == vm], args.good, args.dry_run, say):
            say(f"{vm}: no difference is known; `xenhelper verify {vm}` compares")
    if args.json:
        print(json.dumps({"done": done}, indent=1))
    return EXIT_DONE


def _scheduled() -> int:
    """What the timer does: nothing at most hours. A disk that can't be compared now has its
    turn another time."""
    settings = config.load()
    until = schedule.open_until(datetime.now(), settings.verify_hours)
    if until is None or settings.verify_every == 0:
        return EXIT_DONE
    end = time.monotonic() + (until - datetime.now()).total_seconds()
    records = {record["resource"]: record for record in _chosen([])}
    if not records:
        return EXIT_DONE
    past = {name: results.read(name) for name in records}
    turn = schedule.due(records, events.snapshot(), past, settings.verify_every, time.time())
    try:
        held = stop.lock()
    except Busy:
        return EXIT_DONE
    differ = False
    try:
        for name in turn:
            limits = drive.Limits(settings.verify_rate * units.MIB, until=end)
            if limits.over():
                break
            try:
                differ |= drive.run(records[name], limits, lambda at, size: None, resume=True).differing > 0
            except XenhelperError as error:
                log.event("note", f"verify: {error}", log.WARNING, resource=name)
    finally:
        os.close(held)
    return EXIT_FAILED if differ else EXIT_DONE
