"""``make bench``: measure in the lab, keep the samples, write docs/performance.md."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from tests.lab import results
from tests.lab.lab import Lab, LabError

from . import commands, hooks, many, moves, profile, report, rows, steady
from .rows import Samples
from .unspoilt import FAILURES, unspoilt

# what gives which rows, the quick ones first
PARTS: dict[tuple[str, ...], Callable[[Lab], dict[str, Samples]]] = {
    ("add", "remove"): hooks.run,
    ("list",): commands.listing,
    ("create",): commands.later,
    ("first-create",): commands.first,
    moves.ROWS: moves.run,
    ("steady-c", "steady-plain"): steady.run,
    ("status", "status-2000", "allocation"): many.run,
}


def measure(wanted: list[str]) -> int:
    """Run the parts that give the wanted rows (none named: all). Each part's samples are kept
    before the next one begins, and one that fails, which makes the result 1, costs no other."""
    known = [*(row.key for row in rows.ROWS), profile.KEY]
    wrong = [key for key in wanted if key not in known]
    if wrong:
        raise LabError(f"no row {', '.join(wrong)}: there are {', '.join(known)}")
    lab = Lab()
    was_up = lab.is_up
    failed = 0
    with lab.claim():
        lab.check_alone()
        for keys in [*PARTS, (profile.KEY,)]:
            if wanted and not {*wanted} & {*keys}:
                continue
            print(f"bench: {', '.join(keys)} …", flush=True)
            try:
                if not lab.is_up:
                    lab.reset("paired")
                unspoilt(lab, partial(_measure, lab, keys), lambda: None)
            except FAILURES as error:
                print(f"bench: {', '.join(keys)}: {error}", file=sys.stderr, flush=True)
                failed = 1
        if not was_up:
            lab.down()
    return failed


def _measure(lab: Lab, keys: tuple[str, ...]) -> None:
    """One part, its samples kept."""
    if keys == (profile.KEY,):
        profile.keep(profile.run(lab))
        return
    at = time.strftime("%Y-%m-%d", time.gmtime())
    found = PARTS[keys](lab)
    for samples in found.values():
        samples.ours, samples.theirs = rows.rounded(samples.ours), rows.rounded(samples.theirs)
        samples.commit, samples.at = results.commit(), at
    rows.keep(found)
    for row in rows.ROWS:
        ratio = found[row.key].ratio if row.key in found else None
        if ratio is not None:
            ours, theirs = (statistics.median(side) for side in (found[row.key].ours, found[row.key].theirs))
            print(
                f"  {row.key}: {ours:.2f}, theirs {theirs:.2f}, ratio {ratio:.2f}"
                + ("" if row.goal is None else f", goal {row.goal:.2f} {row.sense}"),
                flush=True,
            )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("row", nargs="*", help="rows to measure, or profile; none: all")
    parser.add_argument("--report", action="store_true", help="only write the page from the kept samples")
    args = parser.parse_args()
    try:
        failed = 0 if args.report else measure(args.row)
        report.write(rows.load())
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
