"""The demo's time line: from two hosts' samples and journals to bars, in SVG and terminal."""

import json
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from tests.lab import demo_bars, demo_record, demo_svg, measure
from tests.lab import demo_samples as ds
from tests.lab import demo_timeline as tl
from tests.lab.demo_timeline import Span

SVG = "{http://www.w3.org/2000/svg}"


def sample(up: float, role: str, proto: str, nr: int = 0, dw: int = 0, minor: int = 1000) -> str:
    """A line as drbd-sample writes it."""
    return (
        f"up={up:.3f} minor={minor} cs=Connected ro={role}/Secondary ds=UpToDate/UpToDate proto={proto} "
        f"ns=0 nr={nr} dw={dw} dr=0"
    )


def entry(up: float, event: str, resource: str = "web1-xvda", late: float = 0.0) -> str:
    """A line as ``journalctl -o json`` writes it, taken in ``late`` seconds after it was sent."""
    fields = {
        "__MONOTONIC_TIMESTAMP": str(int((up + late) * 1e6)),
        "__REALTIME_TIMESTAMP": str(int((1e9 + up + late) * 1e6)),
        "_SOURCE_REALTIME_TIMESTAMP": str(int((1e9 + up) * 1e6)),
        "XENHELPER_EVENT": event,
        "MESSAGE": event,
    }
    return json.dumps(fields | ({"XENHELPER_RESOURCE": resource} if resource else {}))


def test_a_clock_that_runs_at_another_pace_is_followed() -> None:
    clock = ds.Clock((100.0, 5000.0), (200.0, 5110.0))
    assert clock.harness(100) == 5000
    assert clock.harness(150) == 5055
    assert clock.harness(90) == 4989


def test_the_quickest_look_at_a_clock_counts() -> None:
    looks = [(10.0, 500.0, 11.0), (12.0, 501.4, 12.02), (13.0, 502.0, 13.5)]
    assert ds.closest_look(looks) == (501.4, pytest.approx(12.01))


def test_spans_join_what_stays_and_leave_gaps_open() -> None:
    points = [(0.0, "A"), (1.0, "A"), (2.0, "C"), (3.0, "C"), (20.0, "A"), (21.0, ""), (22.0, "A")]
    assert tl.spans(points, 23.0) == (Span(0, 2, "A"), Span(2, 3, "C"), Span(20, 21, "A"), Span(22, 23, "A"))
    assert tl.spans([], 5.0) == ()


def test_roles_and_protocol_take_the_stronger_disk() -> None:
    text = "\n".join(
        [
            sample(1, "Secondary", "A"),
            sample(1, "Secondary", "C", minor=1001),
            sample(2, "Secondary", "C"),
            sample(2, "Primary", "C", minor=1001),
            "up=3.000 minor=1000 cs=-",
        ]
    )
    samples = measure.parse(text)
    clock = ds.Clock((0, 0), (10, 10))
    assert ds.role_points(samples, clock) == [(1.0, "Secondary"), (2.0, "Primary")]
    assert ds.protocol_points(samples, clock) == [(1.0, "C"), (2.0, "C")]


def test_permission_changes_where_the_journal_has_it() -> None:
    checks = [(10.0, False), (11.2, False), (12.4, True), (13.6, True), (14.8, False)]
    points = ds.permission_points(checks, granted=[11.9, 12.1], closed=[13.9, 14.5])
    assert tl.spans(points, 16.0) == (Span(10, 11.9, "no"), Span(11.9, 14.5, "yes"), Span(14.5, 16, "no"))


def test_permission_without_a_journal_changes_where_it_was_seen() -> None:
    checks = [(10.0, False), (11.0, True), (12.0, False)]
    assert tl.spans(ds.permission_points(checks, [], []), 13.0) == (
        Span(10, 11, "no"), Span(11, 12, "yes"), Span(12, 13, "no"),
    )  # fmt: skip


def test_a_permission_between_two_looks_shows_where_it_was_granted() -> None:
    checks = [(10.0, False), (12.0, False)]
    own = ds.permission_points(checks, [10.5], [11.5], own=[10.5])
    assert Span(10.5, 11.5, "yes") in tl.spans(own, 13.0)
    assert not any(value == "yes" for _, value in ds.permission_points(checks, [10.5], [11.5]))


def test_journal_entries_count_when_they_were_sent() -> None:
    text = "\n".join([entry(50.0, "added", late=1.5), "not json", "{}", entry(60.0, "window-closed", "")])
    entries = ds.parse_journal(text)
    assert [(e.up, e.event, e.resource) for e in entries] == [
        (50.0, "added", "web1-xvda"), (60.0, "window-closed", ""),
    ]  # fmt: skip


def test_two_disks_give_one_mark_of_each_kind() -> None:
    entries = [
        ds.Entry(10, "added", "", "web1-xvda"),
        ds.Entry(13, "added", "", "web1-xvdb"),
        ds.Entry(30, "added", "", "web1-xvda"),
        ds.Entry(14, "window-closed", "", ""),
        ds.Entry(15, "note", "", ""),
    ]
    marks = ds.journal_marks("bob", entries, ds.Clock((0, 100), (50, 150)))
    assert [(m.at, m.text) for m in marks] == [(110, "add"), (130, "add")]


class Run:
    """A whole run as two hosts would have recorded it, clocks 1000 and 2000 s apart."""

    def __init__(self) -> None:
        self.alice, self.bob = SimpleNamespace(name="alice"), SimpleNamespace(name="bob")
        self.lab = SimpleNamespace(hosts=(self.alice, self.bob))
        self.start, self.end = 5000.0, 5060.0
        self.commands = [Span(5001, 5003, "xl create"), Span(5010, 5040, "xl migrate web1 bob")]
        self.moves = [demo_record.Move(self.alice, self.bob, 5010, 5040, 5050)]  # type: ignore[arg-type]

    def timeline(self) -> tl.Timeline:
        clocks = [ds.Clock((0, 4000), (100, 4100)), ds.Clock((0, 3000), (100, 3100))]
        alice, bob, written = [], [], 0
        for tick in range(int(self.start * 10) + 20, int(self.end * 10)):
            at = tick / 10
            proto = "C" if 5010 <= at < 5034 else "A"
            before = max(0, min(tick, 50300) - 50040)
            after = max(0, tick - 50360)
            written = before + after
            role = "Primary" if at < 5033 else "Secondary"
            alice.append(sample(at - 4000, role, proto, nr=after, dw=written))
            role = "Primary" if at >= 5031.5 else "Secondary"
            bob.append(sample(at - 3000, role, proto, nr=before, dw=written))
        journals = [
            [entry(1002, "added"), entry(1030.6, "window-granted"), entry(1033.1, "removed"),
             entry(1034, "window-closed")],
            [entry(2031.4, "added")],
        ]  # fmt: skip
        looks = [[(5000 + n * 1.1, 5030.6 < 5000 + n * 1.1 < 5034) for n in range(54)] for _ in range(2)]
        return demo_record.build(
            self,  # type: ignore[arg-type]
            "a run",
            [measure.parse("\n".join(text)) for text in (alice, bob)],
            [ds.parse_journal("\n".join(lines)) for lines in journals],
            looks,
            clocks,
        )


@pytest.fixture(scope="module")
def timeline() -> tl.Timeline:
    return Run().timeline()


def test_a_run_is_put_on_one_clock(timeline: tl.Timeline) -> None:
    alice, bob = timeline.hosts
    assert timeline.end == 60
    (both,) = tl.overlap(alice.role, bob.role, "Primary")
    assert (both.start, both.end) == (pytest.approx(31.5, abs=0.2), pytest.approx(33, abs=0.2))
    for host in timeline.hosts:
        (allowed,) = [s for s in host.permission if s.value == "yes"]
        assert (allowed.start, allowed.end) == (pytest.approx(30.6, abs=0.01), pytest.approx(34, abs=0.01))
        assert tl.lasting(host.protocol, "C") == pytest.approx(24, abs=0.2)
    assert [m.text for m in timeline.marks if m.host == "alice"] == ["add", "granted", "remove", "closed"]


def test_the_guest_writes_here_then_there_and_never_at_both(timeline: tl.Timeline) -> None:
    first, second = timeline.writes
    assert (first.value, second.value) == ("alice", "bob")
    assert first.start == pytest.approx(4.0, abs=0.3)
    assert first.end == pytest.approx(30.0, abs=0.3)
    assert second.start == pytest.approx(36.1, abs=0.3)
    assert second.end == 60


def test_the_hand_over_is_looked_at_closely(timeline: tl.Timeline) -> None:
    (closeup,) = timeline.closeups
    assert closeup.start < 30 < 36.1 < closeup.end
    assert closeup.end - closeup.start < 20


def test_a_run_survives_json(timeline: tl.Timeline) -> None:
    assert tl.from_json(timeline.to_json()) == timeline


def test_the_svg_is_well_formed_and_says_it_in_words_too(timeline: tl.Timeline) -> None:
    root = ET.fromstring(demo_svg.draw(timeline))
    texts = ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]
    for word in ("alice", "bob", "Primary", "Secondary", "xl migrate web1 bob", "granted", "add", "remove"):
        assert word in texts
    style = root.find(f"{SVG}style")
    assert style is not None and "prefers-color-scheme: dark" in (style.text or "")


def test_every_bar_of_the_svg_is_within_it_and_has_a_colour(timeline: tl.Timeline) -> None:
    root = ET.fromstring(demo_svg.draw(timeline))
    style = root.findtext(f"{SVG}style") or ""
    for rect in root.iter(f"{SVG}rect"):
        left, width = float(rect.attrib["x"]), float(rect.attrib["width"])
        assert width > 0 and left >= 0 and left + width <= demo_svg.WIDTH + 1
        light, _, dark = style.partition("@media")
        assert f".{rect.attrib['class']} {{" in light
        assert rect.attrib["class"] == "other" or f".{rect.attrib['class']} {{" in dark


def test_the_svg_escapes_names() -> None:
    odd = tl.Timeline("<&>", 10, (), (Span(1, 2, "xl <&>"),))
    assert "xl <&>" in "".join(ET.fromstring(demo_svg.draw(odd)).itertext())


def test_labels_close_together_get_rows_of_their_own() -> None:
    lanes = tl.Lanes("alice", (Span(0, 10, "Primary"),), (Span(0, 10, "A"),), (Span(0, 10, "no"),))
    marks = tuple(tl.Mark(9.0 + n / 1000, "alice", f"mark{n}") for n in range(3))
    whole = tl.Timeline("t", 10, (lanes,), (), marks, (Span(0, 10, "near"),))
    root = ET.fromstring(demo_svg.draw(whole))
    rows = [e.attrib["y"] for e in root.iter(f"{SVG}text") if (e.text or "").startswith("mark")]
    assert len(rows) == len(set(rows)) == 3


def test_the_terminal_shows_even_what_is_shorter_than_a_column(timeline: tl.Timeline) -> None:
    lines = demo_bars.draw(timeline, 80, demo_bars.Ink(unicode=True, colour=False))
    assert all(len(line) <= 80 + 6 for line in lines)
    (row, *_) = [line for line in lines if line.startswith("alice  two Primaries")]
    assert "▓" in row
    narrow = demo_bars.draw(tl.Timeline("t", 6000, timeline.hosts, ()), 60, demo_bars.Ink(True, False))
    assert any("▓" in line for line in narrow)


def test_the_terminal_draws_in_ascii_and_without_colour(timeline: tl.Timeline) -> None:
    text = "\n".join(demo_bars.draw(timeline, 100, demo_bars.Ink(unicode=False, colour=False)))
    assert text.isascii() and "\x1b" not in text and "on" not in demo_bars.Ink(False, False).bar("yes")
    assert "\x1b[" in "\n".join(demo_bars.draw(timeline, 100, demo_bars.Ink(colour=True)))
