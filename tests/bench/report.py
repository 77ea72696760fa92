"""docs/performance.md and its picture, from the samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from .rows import ROWS, Row, Samples

PAGE = Path("docs/performance.md")
PICTURE = Path("docs/performance.svg")
INTRO = """\
# How fast

Measured side by side in the lab, in turns within one run: two emulated Xen hosts (QEMU without
hardware help), so that only the ratios mean something; real hosts are many times faster on both
sides. `make bench` measures anew and writes this page; `make bench ROW=add` only one row. All
samples are in [performance-samples.json](performance-samples.json). All are medians, in seconds where nothing
else is said.

"Always C and dual" is what block-drbd's users have: protocol C and two-primaries allowed at all
times. Downtime is read on the destination's clock, from the last block received over DRBD to the
first one written there; of two disks the worse.
"""


def page(samples: Mapping[str, Samples]) -> str:
    """The whole file. Pure."""
    lines = [INTRO, "| what | ours | against | theirs | ratio | goal | samples | date | commit |"]
    lines.append("|---" * 9 + "|")
    for row in ROWS:
        lines.append(_line(row, samples.get(row.key)))
    lines += ["", "![Each row's samples, ours above theirs](performance.svg)", ""]
    return "\n".join(lines)


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
    """Both files."""
    PAGE.write_text(page(samples))
    PICTURE.write_text(picture(samples))
