"""docs/performance.md and its pictures, from the samples. What stands outside of the page's two
marks is written by hand, and kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from tests.lab import results
from tests.lab.lab import LabError
from tests.lab.report import between, table
from tests.lab.results import Result

from . import course, elsewhere, profile, usage
from .profile import OURS, THEIRS, Profile
from .rows import ROWS, Row, Samples

PAGE = Path("docs/performance.md")
PICTURE = Path("docs/performance.svg")
COURSE = Path("docs/performance-timeline.svg")
BEGIN = "<!-- figures: written by `make bench` -->"
END = "<!-- end of figures -->"
# beneath it a kind of process is left out where both sides have so little
_LEAST_CPU = 0.05
_COURSE = """
## One migration from second to second

One migration of each kind, in a pass of its own: it is watched on both hosts in every way at once,
which costs some time itself, so the table above has what a migration takes. Times are of one clock,
0:00 is when xl was called. `prepare` is what comes before libxl sends memory (xenhelper's checks,
protocol C and the drain are in it), `pre-copy` lasts until the guest is suspended, `add` and
`remove` are all of the block scripts of both disks.

![Both hosts during a migration by xenhelper and one by block-drbd](performance-timeline.svg)
"""
_COSTS = """
## What a migration costs both hosts

In those two migrations, from xl's call until 5 s after it was back: CPU seconds of all processes of
a kind, and the most memory that the largest one of them held (resident; pages shared with others
are counted in each). The kernel told of each process that ended, however short it lived, but for
its last milliseconds. "In all" is what dom0 was given by Xen; "memory" is by how much less was
available in dom0 at the worst moment than before. xenhelper's services ran during block-drbd's
migration, too. [performance-migration.json](performance-migration.json) has all of it.
"""


def figures(samples: Mapping[str, Samples], seen: Profile | None, found: Iterable[Result]) -> str:
    """What stands between the page's marks. Pure."""
    lines = ["", "| what | ours | against | theirs | ratio | goal | samples | date | commit |"]
    lines.append("|---" * 9 + "|")
    for row in ROWS:
        lines.append(_line(row, samples.get(row.key)))
    lines += ["", "![Each row's samples, ours above theirs](performance.svg)"]
    lines += [
        "",
        "## Measured elsewhere",
        "",
        "By cases of the lab (`make lab-full`), which keep what they see:",
        "",
    ]
    heading = ["what", "against", "measured", "goal", "case", "date", "commit"]
    lines += table(heading, elsewhere.lines(found))
    if seen:
        lines += [_COURSE, *_course(seen), _COSTS, *_costs(seen)]
    return "\n".join(lines) + "\n"


def _course(seen: Profile) -> list[str]:
    """The seconds of each part, side by side."""
    ours, theirs = (course.facts(seen.sides[side].timeline) for side in (OURS, THEIRS))
    rows = [[name, _seconds(ours.get(name)), _seconds(theirs.get(name))] for name in {**ours, **theirs}]
    return table(["seconds", OURS, THEIRS], rows)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _costs(seen: Profile) -> list[str]:
    """A table for the source, one for the destination."""
    lines = []
    for role in ("source", "target"):
        ours, theirs = (
            side.costs[side.source if role == "source" else side.target]
            for side in (seen.sides[OURS], seen.sides[THEIRS])
        )
        rows = []
        for name in usage.GROUPS:
            groups = [costs.groups.get(name) for costs in (ours, theirs)]
            if any(group and group.cpu >= _LEAST_CPU for group in groups):
                rows.append([name, *(cell for group in groups for cell in _group(group))])
        totals = [(f"**{costs.dom0:.1f}**", f"{costs.memory_mib:.0f} (memory)") for costs in (ours, theirs)]
        rows.append(["**in all**", *(cell for total in totals for cell in total)])
        shares = ", ".join(
            f"{costs.tasks / max(costs.dom0, 0.1):.0%} with {name}"
            for name, costs in ((OURS, ours), (THEIRS, theirs))
        )
        lines += [
            f"{'Source' if role == 'source' else 'Destination'}:", "",
            *table(["processes", f"{OURS}, CPU s", "MiB", f"{THEIRS}, CPU s", "MiB"], rows), "",
            f"Of all CPU time the processes account for {shares}.", "",
        ]  # fmt: skip
    return [*lines, f"Taken on {seen.at} at {seen.commit}."]


def _group(group: usage.Group | None) -> tuple[str, str]:
    """CPU and memory; kernel threads have none of their own."""
    if group is None:
        return "", ""
    return f"{group.cpu:.1f}", f"{group.peak_mib:.1f}" if group.peak_mib else ""


def _line(row: Row, found: Samples | None) -> str:
    goal = "" if row.goal is None else f"{row.goal:.2f} {row.sense}"
    if found is None or found.ratio is None:
        return f"| {row.what} | | {row.against} | | not measured | {goal} | | | |"
    verdict = "" if row.met(found.ratio) else " (missed)"
    return (
        f"| {row.what} | {statistics.median(found.ours):.2f} | {row.against} | "
        f"{statistics.median(found.theirs):.2f} | **{found.ratio:.2f}**{verdict} | {goal} | "
        f"{len(found.ours)} and {len(found.theirs)} | {found.at} | {found.commit} |"
    )


_STYLE = """
text { font: 11px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #333c48 }
.paper { fill: #ffffff; stroke: #d5dae1 }
.soft { fill: #667180 }
.goal { stroke: #b3123f; stroke-dasharray: 3 3 }
.ours { fill: #1d5fc4; fill-opacity: .7 }
.theirs { fill: #8a8f98; fill-opacity: .7 }
.line { stroke: #dfe3e9 }
@media (prefers-color-scheme: dark) {
text { fill: #d3dae3 }
.paper { fill: #12161c; stroke: #303844 }
.soft { fill: #93a0b0 }
.line { stroke: #262d37 }
}
"""
_WIDTH, _LEFT, _RIGHT, _ROW = 860, 270, 30, 44


def picture(samples: Mapping[str, Samples]) -> str:
    """Every sample as a dot, each row on a scale of its own from 0 to the largest one. Pure."""
    rows = [(row, found) for row in ROWS if (found := samples.get(row.key)) and found.ratio is not None]
    height = 40 + _ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Samples of each row, ours above theirs">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        '<text x="16" y="22">blue: xenhelper; grey: what it is compared with; dashed: the goal</text>',
    ]
    for number, (row, found) in enumerate(rows):
        parts += _drawn(row, found, 40 + _ROW * number)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(row: Row, found: Samples, top: int) -> Sequence[str]:
    largest = max(*found.ours, *found.theirs) * 1.05

    def at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(value / largest, 1.0)

    parts = [
        f'<text x="16" y="{top + 16}">{escape(row.what.replace("`", ""))}</text>',
        f'<text class="soft" x="16" y="{top + 30}">ratio {found.ratio:.2f}, axis to {largest:.1f}</text>',
        f'<line class="line" x1="{_LEFT}" y1="{top + 22}" x2="{_WIDTH - _RIGHT}" y2="{top + 22}"/>',
    ]
    if row.goal is not None:
        goal = at(statistics.median(found.theirs) * row.goal)
        parts.append(f'<line class="goal" x1="{goal:.1f}" y1="{top + 4}" x2="{goal:.1f}" y2="{top + 40}"/>')
    for kind, values, y in (("ours", found.ours, top + 14), ("theirs", found.theirs, top + 31)):
        parts += [f'<circle class="{kind}" cx="{at(value):.1f}" cy="{y}" r="4"/>' for value in values]
    return parts


def write(samples: Mapping[str, Samples]) -> None:
    """The page and its pictures. Raises LabError where the page has lost its marks."""
    seen = profile.load()
    page = between(PAGE.read_text(), BEGIN, END, figures(samples, seen, results.load()))
    if page is None:
        raise LabError(f"{PAGE} has no lines {BEGIN!r} and {END!r}")
    PAGE.write_text(page)
    PICTURE.write_text(picture(samples))
    if seen:
        COURSE.write_text(course.picture({side: seen.sides[side].timeline for side in (OURS, THEIRS)}))
