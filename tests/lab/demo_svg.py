"""Time lines as an SVG, by hand: readable on light and on dark, and without colour. The demo's is
``draw``; ``page`` puts ranges of several below one another.

Pure: a Timeline in, the file's text out. Colours are set per class
with a dark variant, since not every viewer knows CSS variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .demo_timeline import Mark, Span, Timeline, clock_text, tick_step

WIDTH = 960
LEFT, RIGHT = 132, 20  # beside the lanes
LANE, BETWEEN = 18, 3  # a lane's height, and the room below it
ROW = 14  # a row of labels
LETTER = 6.2  # a letter's width at the labels' size, rather more than less

STYLE = """
text { font: 11px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #333c48 }
.paper { fill: #ffffff; stroke: #d5dae1 }
.title { font-size: 13px; font-weight: 600 }
.host { font-size: 12px; font-weight: 600 }
.soft { fill: #667180 }
.grid { stroke: #dfe3e9 }
.command { fill: #5b6b80; fill-opacity: .10 }
.mark { stroke: #333c48; stroke-opacity: .6 }
.primary { fill: #1d5fc4 } .secondary { fill: #d3deee }
.c { fill: #b65c02 } .a { fill: #efe3cf }
.yes { fill: #b3123f } .no { fill: #eceff3 }
.writes { fill: #2c7a4b }
.step { fill: #6a4fb0; stroke: #ffffff }
.other { fill: #8a8f98 }
.on { fill: #ffffff } .off { fill: #4a5565 }
@media (prefers-color-scheme: dark) {
text { fill: #d3dae3 }
.paper { fill: #12161c; stroke: #303844 }
.soft { fill: #93a0b0 }
.grid { stroke: #262d37 }
.command { fill: #a9b8cc; fill-opacity: .12 }
.mark { stroke: #eef2f7 }
.primary { fill: #3f83ea } .secondary { fill: #26364d }
.c { fill: #d3790f } .a { fill: #3a3122 }
.yes { fill: #e2456f } .no { fill: #20262f }
.writes { fill: #37945e }
.step { fill: #8468cc; stroke: #12161c }
.on { fill: #ffffff } .off { fill: #a3afbd }
}
"""

# value -> (class, class of the text on it, text)
_LOOK = {
    "Primary": ("primary", "on", "Primary"),
    "Secondary": ("secondary", "off", "Secondary"),
    "A": ("a", "off", "A"),
    "C": ("c", "on", "C"),
    "yes": ("yes", "on", "yes"),
    "no": ("no", "off", "no"),
}


class _Panel:
    """One time range, drawn from ``top`` downwards."""

    def __init__(self, timeline: Timeline, part: Span, top: float, marks: bool) -> None:
        self.timeline = timeline
        self.part = part
        self.top = self.y = top
        self.marks = marks
        self.out: list[str] = []

    def x(self, at: float) -> float:
        """Where a moment is, kept within the lanes."""
        share = (at - self.part.start) / (self.part.end - self.part.start)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def shown(self, entries: Iterable[Span]) -> list[Span]:
        """Those that reach into this range."""
        return [s for s in entries if s.end > self.part.start and s.start < self.part.end]

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """One piece of text; ``y`` is its base line."""
        named = f' class="{kind}"' if kind else ""
        self.out.append(f'<text x="{x:.1f}" y="{y:.1f}"{named} text-anchor="{anchor}">{escape(text)}</text>')

    def line(self, x: float, top: float, bottom: float, kind: str) -> None:
        """A vertical line."""
        self.out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="{kind}"/>')

    def bar(self, span: Span, look: tuple[str, str, str], lane: str) -> None:
        """One span of the lane at ``self.y``; never thinner than can be seen."""
        kind, on, text = look
        left = self.x(span.start)
        width = max(1.0, self.x(span.end) - left)
        when = f"{clock_text(span.start)} to {clock_text(span.end)}"
        told = f"{lane}: {text}, {when} ({span.end - span.start:.1f} s)"
        self.out.append(
            f'<rect x="{left:.1f}" y="{self.y:.1f}" width="{width:.1f}" height="{LANE}" class="{kind}">'
            f"<title>{escape(told)}</title></rect>"
        )
        if width > len(text) * LETTER + 6:
            self.text(left + width / 2, self.y + LANE - 5, text, on, "middle")

    def lane(self, name: str, entries: Sequence[Span], looks: dict[str, tuple[str, str, str]]) -> None:
        """A lane with its name at the left."""
        self.text(LEFT - 8, self.y + LANE - 5, name, "soft", "end")
        for span in self.shown(entries):
            self.bar(span, looks.get(span.value, ("other", "on", span.value)), name)
        self.y += LANE + BETWEEN

    def labels(self, marks: Sequence[Mark]) -> list[tuple[float, float]]:
        """The marks' words above a host's lanes, in as many rows as they need.

        Returns where their lines belong (x, top); these are drawn over the lanes.
        """
        ends: list[float] = []
        placed: list[tuple[int, float, str, str]] = []
        for mark in sorted(marks, key=lambda m: m.at):
            x = self.x(mark.at)
            width = len(mark.text) * LETTER
            # at the right edge the word stands left of its line
            start, anchor = (x - width, "end") if x + width > WIDTH - RIGHT else (x, "start")
            row = next((i for i, end in enumerate(ends) if end + 6 < start), len(ends))
            ends[row:row + 1] = [start + width]  # fmt: skip
            placed.append((row, x, anchor, mark.text))
        top = self.y
        self.y += ROW * len(ends)
        for row, x, anchor, text in placed:
            base = top + ROW * (row + 1) - 4
            self.text(x + (3 if anchor == "start" else -3), base, text, "", anchor)
        return [(x, top + ROW * row + 2) for row, x, _, _ in placed]

    def draw(self) -> float:
        """The panel; returns where it ends."""
        self.text(14, self.y + 12, self.part.value, "title")
        self.y += 24
        behind = len(self.out)
        shade_top = self.y
        if not self.marks:
            for span in self.shown(self.timeline.commands):
                self.text(self.x(span.start) + 3, self.y + 10, span.value)
            self.y += ROW + 2
        if self.timeline.writes:
            looks = {s.value: ("writes", "on", f"on {s.value}") for s in self.timeline.writes}
            self.lane("guest writes", self.timeline.writes, looks)
        for host in self.timeline.hosts:
            self.y += 6
            inside = [
                m for m in self.timeline.marks
                if self.marks and m.host == host.host and self.part.start <= m.at <= self.part.end
            ]  # fmt: skip
            lines = self.labels(inside)
            self.text(14, self.y + LANE - 5, host.host, "host")
            if host.steps:
                looks = {s.value: ("step", "on", s.value) for s in host.steps}
                self.lane("migration", host.steps, looks)
            self.lane("role", host.role, _LOOK)
            self.lane("protocol", host.protocol, _LOOK)
            self.lane("two Primaries", host.permission, _LOOK)
            for x, top in lines:
                self.line(x, top, self.y - BETWEEN, "mark")
        self._ground(behind, shade_top)
        return self.y + 26

    def _ground(self, behind: int, shade_top: float) -> None:
        """Ticks and the commands' shade, beneath what is drawn already."""
        drawn, self.out = self.out[behind:], self.out[:behind]
        for span in self.shown(self.timeline.commands):
            left, right = self.x(span.start), self.x(span.end)
            self.out.append(
                f'<rect x="{left:.1f}" y="{shade_top:.1f}" width="{max(1.0, right - left):.1f}" '
                f'height="{self.y - shade_top:.1f}" class="command"/>'
            )
        length = self.part.end - self.part.start
        step = tick_step(length, 12)
        tick = -int(-self.part.start // step) * step
        while tick <= self.part.end:
            self.line(self.x(tick), shade_top + ROW, self.y + 2, "grid")
            self.text(self.x(tick), self.y + 14, clock_text(tick), "soft", "middle")
            tick += step
        self.out += drawn


def draw(timeline: Timeline) -> str:
    """The demo's file: the whole run, then its close-ups."""
    names = " and ".join(host.host for host in timeline.hosts)
    return page(
        f"{timeline.title}: roles, protocol and permission of {names}",
        [(timeline, part, index > 0) for index, part in enumerate(timeline.panels())],
    )


def page(title: str, panels: Iterable[tuple[Timeline, Span, bool]]) -> str:
    """A whole file's text: of each time line a range, whose ``value`` is its heading, and whether
    its marks are shown. Ranges of one length have one scale."""
    body: list[str] = []
    y = 10.0
    for timeline, part, marks in panels:
        panel = _Panel(timeline, part, y, marks)
        y = panel.draw()
        body += panel.out
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" '
            f'height="{y:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1:.0f}" rx="6" class="paper"/>',
            *body,
            "</svg>\n",
        ]
    )
