"""The tables of docs/reliability.md and docs/figures.md, from the results of the lab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import faults, results
from .results import PASSED, SKIPPED, Result

RELIABILITY = Path("docs/reliability.md")
FIGURES = Path("docs/figures.md")
BEGIN = "<!-- results: written by `python3 -m tests.lab.full report` -->"
END = "<!-- end of results -->"
_MATRIX = "tests/lab/test_faults.py::test_migration_under_fire"
_FIRE = "test_migration_under_fire"
# key of a figure -> heading; all in seconds
MIGRATION = {
    "seconds": "whole migration", "downtime": "downtime", "both_primary": "both Primary",
    "two_primaries": "two-primaries allowed", "protocol_c": "protocol C",
}  # fmt: skip


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def told(result: Result | None) -> str:
    """One result as a cell: how, when, on which commit."""
    if result is None:
        return "not run"
    return f"{result.outcome} {result.at[:10]} {result.commit}"


def matrix(last: Mapping[tuple[str, str], Result], release: str) -> list[str]:
    """Phases down, faults across."""
    columns = [*faults.FAULTS, faults.KILL_XL]
    possible = {(phase.name, fault) for phase, fault in faults.cases()}
    rows = []
    for phase in faults.PHASES:
        row: list[str] = [phase.name]
        for fault in columns:
            result = last.get((f"{_MATRIX}[{phase.name}-{fault}]", release))
            person = any(f.get("for_a_person") for f in result.figures) if result else False
            cell = told(result) + (", left to a person" if person else "")
            row.append(cell if (phase.name, fault) in possible else "")
        rows.append(row)
    return table(["phase", *columns], rows)


def lost(last: Iterable[Result]) -> list[str]:
    """Blocks acknowledged at protocol A that a dead host took along."""
    rows = []
    for result in last:
        for line in result.figures:
            if any(line.get("lost_at_a", {}).values()):
                blocks = ", ".join(f"{disk}: {count}" for disk, count in line["lost_at_a"].items())
                rows.append([line["what"], result.release, blocks])
    return table(["case", "release", "blocks of 4 KiB"], rows) if rows else ["None were seen to be lost."]


def reliability(found: Iterable[Result]) -> str:
    """What stands between the marks in docs/reliability.md."""
    last = results.latest(found)
    lines = []
    for release in sorted({release for _, release in last}):
        mine = [result for (_, where), result in sorted(last.items()) if where == release]
        good = sum(result.outcome == PASSED for result in mine)
        skipped = sum(result.outcome == SKIPPED for result in mine)
        count = f"{good} of {len(mine)} cases passed" + (f", {skipped} skipped" if skipped else "")
        lines += ["", f"### {release}", "", f"{count}.", ""]
        if any(_FIRE in result.case for result in mine):
            lines += ["A migration that is struck:", "", *matrix(last, release), ""]
        others = [result for result in mine if _FIRE not in result.case]
        rows = [
            (result.case.removeprefix("tests/lab/"), result.outcome, result.at[:10], result.commit)
            for result in others
        ]
        lines += ["All other cases:", "", *table(["case", "result", "date", "commit"], rows)]
    if last:
        lines += ["", "### Writes at protocol A that died with a host", "", *lost(last.values())]
    else:
        lines = ["", "No case has been run yet."]
    return "\n".join(lines) + "\n"


def _disks(line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for key, value in line.items() if key.isdigit() and isinstance(value, dict)]


def _worst(line: Mapping[str, Any], key: str) -> object:
    values = [disk[key] for disk in _disks(line) if disk.get(key) is not None] or [line.get(key)]
    return max(values) if values[0] is not None else ""


def figures(found: Iterable[Result]) -> str:
    """docs/figures.md, whole."""
    lines = [
        "# Figures",
        "",
        "Measured by the lab on two emulated Xen hosts (QEMU without hardware help), so all are far "
        "above what real hosts take; they are for comparing one build with another. Seconds; of "
        "several disks the worst. Written by `python3 -m tests.lab.full report`.",
    ]
    passed = [result for result in results.latest(found).values() if result.outcome == PASSED]
    moves, others = [], []
    for result in sorted(passed, key=lambda result: (result.release, result.case)):
        for line in result.figures:
            where = [line.get("what", ""), result.release, result.at[:10], result.commit]
            if _disks(line):
                moves.append([*where, *(_worst(line, key) for key in MIGRATION)])
            elif _FIRE not in result.case:
                rest = {k: v for k, v in line.items() if k not in ("case", "what")}
                others.append([*where, ", ".join(f"{k} {v}" for k, v in rest.items())])
    heading = ["what", "release", "date", "commit"]
    if moves:
        lines += ["", "## Migrations", "", *table([*heading, *MIGRATION.values()], moves)]
    if others:
        lines += ["", "## Other", "", *table([*heading, "figures"], others)]
    if not moves and not others:
        lines += ["", "None yet."]
    return "\n".join(lines) + "\n"


def between(text: str, begin: str, end: str, new: str) -> str | None:
    """A page's text with ``new`` between its two marks, all else as it was; None without the marks."""
    before, mark, rest = text.partition(begin + "\n")
    _, closing, after = rest.partition(end)
    return before + mark + new + "\n" + closing + after if mark and closing else None


def write(found: Sequence[Result]) -> int:
    """Write both files; 1 when docs/reliability.md has lost its marks."""
    page = between(RELIABILITY.read_text(), BEGIN, END, reliability(found))
    if page is None:
        print(f"{RELIABILITY} has no lines {BEGIN!r} and {END!r}")
        return 1
    RELIABILITY.write_text(page)
    FIGURES.write_text(figures(found))
    print(f"written: {RELIABILITY}, {FIGURES}")
    return 0
