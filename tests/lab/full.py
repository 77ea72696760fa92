"""``python3 -m tests.lab.full``: every case of the lab, one by one, for hours; resumable.

Results are kept per case, release and build of the product (results.py). What has passed
on this build isn't run again; Ctrl-C loses only the case that runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import image, report, results
from .lab import LabError, newest_deb
from .release import RELEASES
from .results import FAILED, PASSED, SKIPPED, TIMEOUT, Result

TESTS = "tests/lab"
LOGS = image.CACHE / "full"
CASE_MINUTES = 45
TAIL = 40
# pytest's exit statuses (pytest.ExitCode)
OK, TESTS_FAILED, NOTHING = 0, 1, 5
_PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


class Interrupted(Exception):
    """Somebody stopped it, or the lab can't be had; the case has no result."""


def collect(only: str) -> list[str]:
    """Node ids of the cases; ``only`` is a path or node id, or what pytest's -k takes."""
    where = [only] if only.startswith("tests/") else [TESTS, *(["-k", only] if only else [])]
    done = subprocess.run([*_PYTEST, "--collect-only", "-q", *where], capture_output=True, text=True)
    if done.returncode not in (OK, NOTHING):
        raise LabError(f"the tests can't be collected:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]


def outcome_of(status: int, text: str) -> str:
    """From pytest's exit status and closing line. Raises Interrupted."""
    lines = text.strip().splitlines() or [""]
    if status == OK:
        return PASSED if re.search(r"\b\d+ passed", lines[-1]) else SKIPPED
    if status == TESTS_FAILED:
        return FAILED
    raise Interrupted(f"pytest ended with {status}: {lines[-1]}")


def tail_of(text: str) -> list[str]:
    """What says why: pytest's lines of the error, else the last ones."""
    why = [line for line in text.splitlines() if re.match(r"E\s", line)]
    return (why or [line for line in text.splitlines() if line.strip()])[-TAIL:]


@contextlib.contextmanager
def _caught() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are only noted: the case is stopped in good order."""
    seen: list[int] = []
    old = {
        n: signal.signal(n, lambda number, _: seen.append(number)) for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _pytest(case: str, release: str, folder: Path, minutes: float) -> tuple[int | None, str]:
    """Run one case; (exit status, output), no status when time ran out. Raises Interrupted."""
    environment = {
        **os.environ, "RELEASE": release, "LAB_LOGS": str(folder), "LAB_FIGURES": str(folder / "figures")
    }  # fmt: skip
    output = folder / "output"
    with output.open("wb") as file, _caught() as stop:
        # a session of its own: Ctrl-C reaches this process only, which then asks for an end
        process = subprocess.Popen(
            [*_PYTEST, "-q", "--tb=short", case],
            env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + minutes * 60
        while process.poll() is None and not stop and time.monotonic() < end:
            time.sleep(0.3)
        late = process.poll() is None
        if late:
            process.send_signal(signal.SIGINT)  # pytest puts the lab down
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if stop:
        raise Interrupted("stopped; the next run goes on with this case")
    return None if late else process.returncode, output.read_text(errors="replace")


def run_case(case: str, release: str, product: str, minutes: float) -> Result:
    """Run and record one case. Raises Interrupted, with nothing recorded."""
    folder = LOGS / release / re.sub(r"[^\w.-]+", "_", case.removeprefix(TESTS + "/"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures").unlink(missing_ok=True)
    began = time.monotonic()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    status, text = _pytest(case, release, folder, minutes)
    outcome = TIMEOUT if status is None else outcome_of(status, text)
    figures = []
    if (folder / "figures").exists():
        figures = [json.loads(line) for line in (folder / "figures").read_text().splitlines()]
    tail = [] if outcome == PASSED else tail_of(text)
    seconds = round(time.monotonic() - began, 1)
    result = Result(case, release, product, results.commit(), at, seconds, outcome, figures, tail)
    results.append(result)
    return result


def run(only: str, releases: list[str], failed: bool, again: bool, minutes: float) -> int:
    """All cases that have no result yet. 0 when every one of them passes, 130 when stopped."""
    for release in releases:
        if release not in RELEASES:
            raise LabError(f"no release {release!r}: there are {', '.join(RELEASES)}")
    cases = collect(only)
    product = results.product_hash(newest_deb())
    bad = 0
    for release in releases:
        known = results.load()
        skip = set() if again else results.passed(known, release, product)
        chosen = [case for case in cases if case not in skip]
        if failed:
            chosen = [case for case in chosen if case in results.failed(known, release)]
        print(f"{release}, build {product}: {len(chosen)} of {len(cases)} cases to run", flush=True)
        for number, case in enumerate(chosen, 1):
            if results.product_hash(newest_deb()) != product:
                print("the .deb is another one now: start again, and what passed on it is skipped")
                return 1
            print(f"[{number}/{len(chosen)}] {case.removeprefix(TESTS + '/')} …", end=" ", flush=True)
            try:
                result = run_case(case, release, product, minutes)
            except Interrupted as stop:
                print(stop)
                return 130
            print(f"{result.outcome}, {result.seconds / 60:.1f} min", flush=True)
            if result.outcome in (FAILED, TIMEOUT):
                bad += 1
                print("    " + "\n    ".join(result.tail[-3:]), flush=True)
    return 1 if bad else 0


def summary() -> int:
    """The last result of each case: counts, then what didn't pass."""
    last = results.latest(results.load())
    for release in sorted({release for _, release in last}):
        mine = [result for (_, where), result in sorted(last.items()) if where == release]
        counts = Counter(result.outcome for result in mine)
        minutes = sum(result.seconds for result in mine) / 60
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(f"{release}: {told}; {minutes:.0f} minutes in all")
        for result in mine:
            if result.outcome in (FAILED, TIMEOUT):
                name = result.case.removeprefix(TESTS + "/")
                print(f"  {result.outcome} {name} ({result.at}, {result.commit})")
                print("    " + "\n    ".join(result.tail[-2:]))
    if not last:
        print(f"no results yet in {results.FILE}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab.full", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="run what has not passed on this build")
    runner.add_argument("--only", default="", help="a path or node id, or what pytest's -k takes")
    runner.add_argument("--release", default=os.environ.get("RELEASE") or "trixie", help="trixie,bookworm")
    runner.add_argument("--failed", action="store_true", help="only those whose last run failed")
    runner.add_argument("--again", action="store_true", help="also what has passed on this build")
    runner.add_argument("--minutes", type=float, default=CASE_MINUTES, help="for one case")
    verbs.add_parser("summary", help="what is known so far")
    verbs.add_parser("report", help="write the tables of docs/reliability.md and docs/figures.md")
    lister = verbs.add_parser("list", help="the cases")
    lister.add_argument("--only", default="")
    args = parser.parse_args(arguments)
    try:
        if args.verb == "run":
            return run(args.only, args.release.split(","), args.failed, args.again, args.minutes)
        if args.verb == "report":
            return report.write(results.load())
        if args.verb == "list":
            print("\n".join(collect(args.only)))
            return 0
        return summary()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # between two cases
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
