"""Rows of the comparison that cases of the lab measure: read from the results that these keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.lab.results import PASSED, Result

from .rows import MORE

_RESYNC = "resync of 512 MiB"


@dataclass(frozen=True)
class Elsewhere:
    """One row. ``figure`` is the ``what`` that its case notes (tests/lab/figures.py), ``told`` makes
    a cell of it."""

    what: str
    against: str
    goal: str
    figure: str
    told: Callable[[Mapping[str, Any]], str]


def _idle(figure: Mapping[str, Any]) -> str:
    return (
        f"{figure['kib'] / 1024:.1f} MB, given a processor {figure['switches']} times "
        f"in {figure['seconds']} s"
    )


def _resync(figure: Mapping[str, Any]) -> str:
    """The case notes "41.9 s, 12 MiB/s" for each way."""
    default, tuned = (float(str(figure[way]).split()[0]) for way in ("defaults", "tuned"))
    taken = f"{figure['tuned']}, default {figure['defaults']}"
    floor = figure.get("without DRBD")
    return _verdict(default / tuned, 3.0, taken + (f", the bytes without DRBD {floor}" if floor else ""))


def _reads(figure: Mapping[str, Any]) -> str:
    taken = f"{figure['kib_4096']:.2f} s, default {figure['kib_128']:.2f} s"
    return _verdict(figure["kib_128"] / figure["kib_4096"], 2.5, taken)


def _verdict(ratio: float, goal: float, taken: str) -> str:
    return f"**{ratio:.2f}** times{'' if ratio >= goal else ' (missed)'}: {taken}"


ROWS = (
    Elsewhere(
        "`xenhelper-watch` idle", "", "30 MB, no periodic wake-up other than its watchdog", "watcher idle",
        _idle,
    ),
    Elsewhere("resync, tuned", "default settings", f"3.00 times {MORE}", _RESYNC, _resync),
    Elsewhere(
        "guest's sequential buffered reads, 2 ms of latency beneath, tuned", "default",
        f"2.50 times {MORE}", "32 MiB read in sequence, 2 ms beneath", _reads,
    ),
)  # fmt: skip


def newest(row: Elsewhere, found: Iterable[Result]) -> dict[str, tuple[Result, Mapping[str, Any]]]:
    """By release, the last run that passed and noted this row's figure."""
    last = {}
    for result in found:
        for figure in result.figures:
            if result.outcome == PASSED and figure.get("what") == row.figure:
                last[result.release] = result, figure
    return last


def lines(found: Iterable[Result]) -> list[list[str]]:
    """Cells of the table: one line a row and release."""
    known, cells = list(found), []
    for row in ROWS:
        last = newest(row, known)
        if not last:
            cells.append([row.what, row.against, "not measured", row.goal, "", "", ""])
        for release, (result, figure) in sorted(last.items()):
            case = result.case.removeprefix("tests/lab/")
            cells.append(
                [row.what, row.against, f"{row.told(figure)} ({release})", row.goal, f"`{case}`",
                 result.at[:10], result.commit]
            )  # fmt: skip
    return cells
