"""What the benchmarks make of one watched migration: its course, its costs, the page."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.bench import course, elsewhere, hooks, profile, report, usage
from tests.bench.course import Evidence, Move
from tests.bench.profile import OURS, THEIRS, Profile, Side
from tests.lab import demo_samples as ds
from tests.lab import demo_timeline as tl
from tests.lab import measure
from tests.lab.demo_timeline import Span
from tests.lab.recording import Seen
from tests.lab.results import Result
from tests.unit.test_timeline import entry, sample

SVG = "{http://www.w3.org/2000/svg}"

# as host/usage.c printed it on Linux 6.12 and 6.18, with names and numbers of a Xen host
USAGE = """\
begin up=100.000 self=900
stat cpu  1000 0 2000 5000 100 0 50 10 0 0
lives up=100.001 pid=1 ppid=0 cpu=7130000 peak=1600 comm=systemd
lives up=100.001 pid=2 ppid=0 cpu=60000 peak=0 comm=kthreadd
lives up=100.001 pid=30 ppid=2 cpu=10000 peak=0 comm=drbd_w_web1-xvd
lives up=100.001 pid=31 ppid=2 cpu=0 peak=0 comm=3.xvda-0
lives up=100.001 pid=32 ppid=2 cpu=0 peak=0 comm=kworker/u2:1-ev
lives up=100.002 pid=400 ppid=1 cpu=100000 peak=9000 comm=sshd
lives up=100.002 pid=410 ppid=400 cpu=50000 peak=9000 comm=sshd-session
lives up=100.002 pid=420 ppid=400 cpu=50000 peak=9000 comm=sshd-session
lives up=100.002 pid=421 ppid=420 cpu=900000 peak=25000 comm=peer-serve
lives up=100.002 pid=500 ppid=1 cpu=300000 peak=25000 comm=peer-link
lives up=100.002 pid=501 ppid=500 cpu=20000 peak=8000 comm=ssh
lives up=100.002 pid=600 ppid=1 cpu=4000000 peak=12000 comm=oxenstored
lives up=100.003 pid=898 ppid=410 cpu=0 peak=1500 comm=timeout
lives up=100.003 pid=899 ppid=898 cpu=0 peak=1500 comm=sh
lives up=100.003 pid=900 ppid=899 cpu=0 peak=800 comm=bench-usage
ready
ended up=100.100 pid=899 tgid=899 ppid=898 lived=200000 cpu=5000 peak=1500 comm=sh
ended up=100.100 pid=898 tgid=898 ppid=410 lived=210000 cpu=5000 peak=1500 comm=timeout
ended up=101.500 pid=1003 tgid=1002 ppid=1001 lived=300000 cpu=200000 peak=30000 comm=worker
ended up=101.600 pid=1002 tgid=1002 ppid=1001 lived=500000 cpu=100000 peak=29000 comm=python3
ended up=103.000 pid=1013 tgid=1013 ppid=1012 lived=60000 cpu=50000 peak=1400 comm=sed
ended up=103.100 pid=1014 tgid=1014 ppid=1010 lived=150000 cpu=140000 peak=2400 comm=drbdsetup
ended up=103.200 pid=1012 tgid=1012 ppid=1010 lived=300000 cpu=20000 peak=2900 comm=block-drbd
ended up=104.000 pid=1010 tgid=1010 ppid=1001 lived=2000000 cpu=400000 peak=3000 comm=block-drbd
ended up=105.000 pid=1011 tgid=1011 ppid=1001 lived=4000000 cpu=1500000 peak=6000 comm=libxl-save-help
ended up=105.500 pid=1001 tgid=1001 ppid=897 lived=5000000 cpu=600000 peak=7000 comm=xl
ended up=106.000 pid=500 tgid=500 ppid=1 lived=99000000 cpu=350000 peak=26000 comm=peer-link
ended up=110.001 pid=1099 tgid=1099 ppid=600 lived=100 cpu=1000 peak=1 comm=odd (name) x
end up=110.000 lost=0
stat cpu  1500 0 2300 5200 100 0 70 10 0 0
lives up=110.001 pid=1 ppid=0 cpu=7230000 peak=1700 comm=systemd
lives up=110.001 pid=2 ppid=0 cpu=60000 peak=0 comm=kthreadd
lives up=110.001 pid=30 ppid=2 cpu=110000 peak=0 comm=drbd_w_web1-xvd
lives up=110.001 pid=31 ppid=2 cpu=70000 peak=0 comm=3.xvda-0
lives up=110.001 pid=32 ppid=2 cpu=40000 peak=0 comm=kworker/u2:1-ev
lives up=110.002 pid=400 ppid=1 cpu=100000 peak=9000 comm=sshd
lives up=110.002 pid=410 ppid=400 cpu=250000 peak=9000 comm=sshd-session
lives up=110.002 pid=420 ppid=400 cpu=150000 peak=9000 comm=sshd-session
lives up=110.002 pid=421 ppid=420 cpu=1100000 peak=25500 comm=peer-serve
lives up=110.002 pid=501 ppid=500 cpu=30000 peak=8000 comm=ssh
lives up=110.002 pid=600 ppid=1 cpu=5000000 peak=12500 comm=oxenstored
lives up=110.003 pid=900 ppid=1 cpu=30000 peak=900 comm=bench-usage
lives up=110.003 pid=1200 ppid=400 cpu=700000 peak=9100 comm=sshd-session
ended up=110.004 pid=1200 tgid=1200 ppid=400 lived=9000000 cpu=710000 peak=9100 comm=sshd-session
memory available=500000 least=460000
"""


def test_processes_that_lived_a_moment_count_and_those_that_live_on_for_what_was_new() -> None:
    found = usage.parse(USAGE)
    by_pid = {task.pid: task for task in found.tasks}
    assert len(by_pid) == len(found.tasks)
    shim = by_pid[1002]  # two threads
    assert (shim.cpu, shim.peak_kib, shim.name) == (pytest.approx(0.3), 30000, "python3")
    assert (shim.began, shim.ended) == (pytest.approx(101.1), 101.6)
    assert by_pid[600].cpu == pytest.approx(1.0) and by_pid[600].ended is None
    assert by_pid[500].cpu == pytest.approx(0.05) and by_pid[500].began is None
    # seen alive at the end: what its end said isn't counted once more
    assert by_pid[1200].cpu == pytest.approx(0.7)
    assert by_pid[1099].name == "odd (name) x"
    assert (found.seconds, found.ticks, found.memory_kib) == (10.0, pytest.approx(8.2), 40000)


def test_each_process_is_of_one_kind_by_its_name_or_its_parents() -> None:
    kinds = {task.pid: kind for kind, tasks in usage.grouped(usage.parse(USAGE)).items() for task in tasks}
    assert len(kinds) == len(usage.parse(USAGE).tasks)
    assert {kinds[pid] for pid in (1010, 1012, 1013)} == {usage.BLOCK}, "sed is the block script's"
    assert kinds[1014] == usage.DRBD and kinds[1001] == usage.XL and kinds[1011] == usage.HELPER
    # its own connection at both ends, but neither sshd's listener nor the migration's stream
    assert {kinds[pid] for pid in (420, 421, 500, 501, 1002)} == {usage.OURS}
    assert kinds[400] == kinds[1200] == usage.SSH
    assert kinds[30] == usage.KERNEL_DRBD and kinds[31] == usage.KERNEL_XEN and kinds[32] == usage.REST
    # what the counting was typed in
    assert {kinds[pid] for pid in (410, 898, 899, 900)} == {usage.REST}
    assert kinds[600] == kinds[1099] == usage.DAEMONS


def test_a_host_table_adds_up() -> None:
    costs = usage.costs(usage.parse(USAGE), 9.0)
    assert sum(group.cpu for group in costs.groups.values()) == pytest.approx(costs.tasks, abs=0.1)
    assert costs.groups[usage.BLOCK] == usage.Group(0.47, 2.9, 3)
    assert (costs.dom0, costs.memory_mib) == (9.0, 39.1)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [("lost=0", "lost=2", "dropped 2"), ("memory available", "", "incomplete"),
     ("begin up=100.000 self=900", "error taskstats: No such file or directory", "incomplete")],
)  # fmt: skip
def test_a_count_with_gaps_is_no_measurement(old: str, new: str, why: str) -> None:
    with pytest.raises(hooks.NotMeasured, match=why):
        usage.parse(USAGE.replace(old, new))


def evidence(ours: bool) -> list[Evidence]:
    """bob to alice, xl from 5000 to 5040 of the harness; bob's clock is 3000 s behind, alice's 4000.
    Suspended at 5030, last block 5030.5, first block there 5036, both Primary 5032 to 5034."""
    alice, bob, written = [], [], 0
    for tick in range(49950, 50451):
        at = tick / 10
        proto = "A" if ours and not 5004 <= at < 5035 else "C"
        before, after = min(tick, 50305) - 49900, max(0, tick - 50360)
        written = before + after
        alice.append(sample(at - 4000, "Primary" if at >= 5032 else "Secondary", proto, before, written))
        bob.append(sample(at - 3000, "Primary" if at < 5034 else "Secondary", proto, after, written))
    script = "block-xenhelper" if ours else "block-drbd"
    tasks = {
        "bob": [
            usage.Task(7, 1, "libxl-save-help", 1.0, 1, 2006.0, 2031.5),
            usage.Task(8, 1, script, 1.0, 1, 2033.5, 2035.0),
            usage.Task(9, 1, script, 1.0, 1, 2033.6, 2036.0),
            usage.Task(10, 1, script, 1.0, 1, None, 2001.0),
        ],
        "alice": [
            usage.Task(7, 1, "libxl-save-help", 1.0, 1, 1006.2, 1031.6),
            usage.Task(8, 1, script, 1.0, 1, 1031.7, 1033.0),
            usage.Task(9, 1, "xl", 1.0, 1, 1001.0, 1039.0),
        ],
    }
    journals = {
        "bob": [entry(2004.0, "window-open", ""), entry(2030.4, "window-granted"),
                entry(2030.9, "window-granted", "web1-xvdb"), entry(2034.5, "window-closed"),
                entry(2035.5, "window-closed", "web1-xvdb"), entry(2038, "window-closed", "")],
        "alice": [entry(1033.0, "added")],
    }  # fmt: skip
    events = {
        "bob": [(1990.0, "@introduceDomain"), (1990.1, "@releaseDomain"), (2030.0, "@releaseDomain"),
                (2036.5, "@releaseDomain")],
        "alice": [(990.0, "@releaseDomain"), (1005.0, "@introduceDomain")],
    }  # fmt: skip
    return [
        Evidence(
            Seen(
                name, ds.Clock((0, ahead), (100, ahead + 100)), measure.parse("\n".join(lines)),
                ds.parse_journal("\n".join(journals[name] if ours else [])),
            ),
            events[name],
            tasks[name],
        )
        for name, ahead, lines in (("alice", 4000, alice), ("bob", 3000, bob))
    ]  # fmt: skip


def moved(ours: bool) -> tl.Timeline:
    move = Move("web1" if ours else "hand", "bob", "alice", 5000, 5040, 5045)
    return course.timeline(OURS if ours else THEIRS, evidence(ours), move, always=not ours)


def test_a_migrations_parts_are_put_on_one_clock_from_xls_start() -> None:
    line = moved(ours=True)
    alice, bob = line.hosts
    assert [(s.value, round(s.start, 1), round(s.end, 1)) for s in bob.steps] == [
        ("prepare", 0, 6), ("pre-copy", 6, 30), ("last pass", 30, 31.5), ("remove", 33.5, 36),
    ]  # fmt: skip
    assert [(s.value, round(s.start, 1), round(s.end, 1)) for s in alice.steps] == [
        ("receive", 6.2, 31.6), ("add", 31.7, 33),
    ]  # fmt: skip
    (allowed,) = [s for s in bob.permission if s.value == "yes"]
    assert (allowed.start, allowed.end) == (pytest.approx(30.4), pytest.approx(35.5)), "both disks"
    assert alice.permission == bob.permission
    facts = course.facts(line)
    assert facts["both Primary"] == pytest.approx(2, abs=0.2)
    assert facts["guest stands still"] == pytest.approx(5.6, abs=0.3)
    assert facts["pre-copy"] == pytest.approx(24) and facts["whole `xl migrate`"] == 40
    assert [m.text for m in line.marks if m.host == "bob"] == ["suspended", "granted", "closed"]


def test_block_drbds_users_allow_two_primaries_always() -> None:
    line = moved(ours=False)
    assert {s.value for host in line.hosts for s in (*host.permission, *host.protocol)} == {"yes", "C"}
    assert course.facts(line)["two Primaries allowed"] == line.end == 45


def test_a_suspension_that_wasnt_seen_leaves_the_pass_whole() -> None:
    hosts = [Evidence(one.seen, [], one.tasks) for one in evidence(True)]
    line = course.timeline(OURS, hosts, Move("web1", "bob", "alice", 5000, 5040, 5045), False)
    assert [s.value for s in line.hosts[1].steps] == ["prepare", "pre-copy", "remove"]
    assert "last pass" not in course.facts(line) and line.closeups


def test_both_migrations_are_drawn_on_one_scale_each_with_its_hand_over() -> None:
    longer = tl.Timeline(**{**vars(moved(False)), "end": 90.0})
    root = ET.fromstring(course.picture({OURS: moved(True), THEIRS: longer}))
    texts = ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]
    for word in ("pre-copy", "add", "remove", "suspended", "granted", "xl migrate hand alice"):
        assert word in texts, word
    shades = [float(e.attrib["width"]) for e in root.iter(f"{SVG}rect") if e.attrib["class"] == "command"]
    assert len(shades) == 4 and shades[0] == shades[1] and shades[2] == shades[3]
    style = root.findtext(f"{SVG}style") or ""
    for rect in root.iter(f"{SVG}rect"):
        assert f".{rect.attrib['class']} {{" in style
        assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= 961


def test_uptimes_of_events_are_read_and_a_cut_line_is_not() -> None:
    text = "990.11 @introduceDomain\n990.12 @releaseDomain\n1030.5"
    assert course.events(text) == [(990.11, "@introduceDomain"), (990.12, "@releaseDomain")]


@pytest.fixture
def seen() -> Profile:
    costs = {name: usage.costs(usage.parse(USAGE), 9.0) for name in ("alice", "bob")}
    sides = {name: Side(moved(name == OURS), "bob", "alice", costs) for name in (OURS, THEIRS)}
    return Profile(sides, "abc1234567", "2026-11-26")


def test_a_profile_survives_its_file(seen: Profile, tmp_path: Path) -> None:
    file = tmp_path / "migration.json"
    assert profile.load(file) is None
    profile.keep(seen, file)
    again = profile.load(file)
    assert again is not None and again.sides[OURS].costs == seen.sides[OURS].costs
    assert course.facts(again.sides[THEIRS].timeline) == pytest.approx(
        course.facts(seen.sides[THEIRS].timeline), abs=0.01
    )
    assert not re.search(r"\d\.\d{4}", file.read_text())


def result(release: str, at: str, outcome: str, *figures: dict[str, object]) -> Result:
    return Result("tests/lab/test_x.py::test_y", release, "p", "c", at, 1.0, outcome, list(figures))


RESYNC = {"what": "resync of 512 MiB", "defaults": "41.9 s, 12 MiB/s",
          "resync-rate alone": "16.7 s, 31 MiB/s",
          "tuned": "17.4 s, 29 MiB/s"}  # fmt: skip
READS = {
    "what": "32 MiB read in sequence, 2 ms beneath",
    "kib_128": 1.51548,
    "kib_4096": 0.388515,
    "ratio": 3.9,
}


def test_rows_of_the_labs_cases_come_from_what_these_noted() -> None:
    slower = {**READS, "kib_128": 0.5}
    found = [
        result("trixie", "2026-11-25T01:00:00Z", "passed", slower),
        result("trixie", "2026-11-26T01:00:00Z", "passed", READS, RESYNC),
        result("trixie", "2026-11-26T02:00:00Z", "failed", slower),
        result("bookworm", "2026-11-26T03:00:00Z", "passed", slower),
    ]
    watcher, resync, *reads = elsewhere.lines(found)
    assert watcher[2] == "not measured"
    assert resync[2].startswith("**2.41** times (missed): 17.4 s") and resync[4] == "`test_x.py::test_y`"
    assert [cells[2].split(":")[0] for cells in reads] == ["**1.29** times (missed)", "**3.90** times"]
    floor = result("trixie", "2026-11-26T01:00:00Z", "passed", {**RESYNC, "without DRBD": "15.0 s, 34 MiB/s"})
    assert elsewhere.lines([floor])[1][2].endswith("the bytes without DRBD 15.0 s, 34 MiB/s (trixie)")
    idle = {"what": "watcher idle", "kib": 26112, "switches": 7, "seconds": 70}
    (watcher, *_) = elsewhere.lines([result("trixie", "2026-11-26T01:00:00Z", "passed", idle)])
    assert watcher[2] == "25.5 MB, given a processor 7 times in 70 s (trixie)"


def test_the_page_has_both_tables_and_what_was_written_by_hand_stays(
    seen: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGE", "PICTURE", "COURSE"):
        monkeypatch.setattr(report, name, tmp_path / getattr(report, name).name)
    monkeypatch.setattr(profile, "load", lambda: seen)
    report.PAGE.write_text(
        f"# Title\n\nBy hand.\n{report.BEGIN}\nold\n{report.END}\n\n## Where the time goes\n"
    )
    report.write({})
    text = report.PAGE.read_text()
    assert text.startswith("# Title\n\nBy hand.\n") and text.endswith("\n## Where the time goes\n")
    assert "\nold\n" not in text and text.count("not measured") > 10
    assert "| both Primary | 2.0 | 2.0 |" in text
    assert f"| {usage.BLOCK} | 0.5 | 2.9 | 0.5 | 2.9 |" in text
    assert "| **in all** | **9.0** | 39 (memory) | **9.0** | 39 (memory) |" in text
    assert text.index("Source:") < text.index("Destination:")
    ET.fromstring(report.COURSE.read_text())
    report.write({})
    assert report.PAGE.read_text() == text
    report.PAGE.write_text("no marks\n")
    with pytest.raises(Exception, match="has no lines"):
        report.write({})


def test_the_kept_page_has_its_marks() -> None:
    text = Path("docs/performance.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_json_of_the_demo_before_there_were_steps_is_read() -> None:
    data = json.loads(moved(True).to_json())
    for host in data["hosts"]:
        del host["steps"]
    assert tl.from_json(json.dumps(data)).hosts[0].steps == ()


def test_spans_of_a_shifted_run_keep_their_steps() -> None:
    lanes = tl.Lanes("alice", (), (), (), (Span(2, 4, "add"),))
    assert tl.shifted(tl.Timeline("t", 10, (lanes,), ()), 1).hosts[0].steps == (Span(1, 3, "add"),)
