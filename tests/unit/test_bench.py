"""What the benchmarks make of what they measured."""

import contextlib
import json
from pathlib import Path

import pytest

from tests.bench import byhand, elsewhere, hooks, moves, report, rows, steady
from tests.bench.rows import Samples
from tests.lab.lab import LabError
from tests.lab.wait import TimedOut


def test_ratio_is_of_medians_and_a_goal_has_a_side() -> None:
    less, more = (rows.Row("x", "", "", 0.5, sense) for sense in (rows.LESS, rows.MORE))
    ratio = Samples([1.0, 9.0, 2.0], [4.0, 3.0, 5.0]).ratio
    assert ratio == 0.5
    assert less.met(ratio) and more.met(ratio) and not less.met(0.51) and not more.met(0.49)
    assert Samples([1.0]).ratio is None


def test_block_scripts_are_told_apart_and_a_failed_call_is_no_sample() -> None:
    text = "ours add 900000 0 \ntheirs add 3000000 0 \nours remove 500000 0 \n"
    found = hooks.parse(text)
    assert found["add"].ours == [0.9] and found["add"].theirs == [3.0] and found["remove"].ours == [0.5]
    with pytest.raises(hooks.NotMeasured, match="exited 3: xenhelper: web1-xvda is in use"):
        hooks.parse("ours add 100 3 xenhelper: web1-xvda is in use\n")


def test_time_allowed_is_from_the_grant_to_the_closing_of_the_slower_disk() -> None:
    entries = [("window-granted", "a", 10), ("window-granted", "b", 11), ("window-closed", "a", 14),
               ("window-closed", "b", 16.5), ("window-closed", "a", 20)]  # fmt: skip
    journal = "".join(
        json.dumps(
            {"XENHELPER_EVENT": event, "XENHELPER_RESOURCE": name, "__REALTIME_TIMESTAMP": str(int(at * 1e6))}
        )
        + "\n"
        for event, name, at in entries
    )
    assert moves.allowed(journal) == [5.5]
    # the destination asked once more for what it had
    assert moves.allowed(
        journal.replace('"b", "__REALTIME_TIMESTAMP": "11', '"a", "__REALTIME_TIMESTAMP": "11')
    ) == [4]
    assert moves.allowed("") == []


def test_steady_writes_leave_the_first_turn_out_and_want_every_disk() -> None:
    turns = "".join(
        f"SW xvda {8 * n} 2.0\r\nSW xvdb {n} 2.0\nSW xvdc {9 * n} 2.0\n" for n in (1, 10, 10)
    ).replace("\r", "")
    found = steady.parse(turns)
    assert found["steady-c"].ratio == 8.0 and found["steady-plain"].theirs == [45.0, 45.0]
    with pytest.raises(hooks.NotMeasured):
        steady.parse(turns.replace("SW xvdb 10 2.0", "SW xvdb unusable", 1))


def test_only_the_destinations_add_counts() -> None:
    text = "remove web1--incoming 1 0\nadd web1--incoming 2000000 0\nadd web1 3 0\nadd web1--incoming 9 1\n"
    assert moves._adds(text) == [2.0]


def test_the_other_side_is_block_drbds() -> None:
    assert "script=block-drbd,vdev=xvdb,access=rw,target=hand-xvdb" in byhand.config()
    assert byhand.config().count("\ndisk =") == 1 and "phy:" not in byhand.config()
    assert byhand.resource_file().count("allow-two-primaries yes") == len(byhand.DISKS)


def test_a_newer_run_of_a_row_replaces_the_older_and_the_page_says_what_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "samples.json"
    rows.keep({"add": Samples([1.0], [2.0]), "list": Samples([1.0], [1.0])}, file)
    rows.keep({"add": Samples([1.0], [4.0]), "create": Samples([1.0], [])}, file)
    known = rows.load(file)
    assert known["add"].ratio == 0.25 and set(known) == {"add", "list"}
    page = report.figures({**known, "migrate": Samples([2.0], [1.0])}, None, [])
    assert "**0.25** | 0.33 or less" in page and "**2.00** (missed)" in page
    assert page.count("not measured") == len(rows.ROWS) - 3 + len(elsewhere.ROWS)
    assert report.picture(known).count("<circle") == 4


def test_every_row_has_a_part_that_measures_it() -> None:
    from tests.bench.__main__ import PARTS

    assert sorted(key for keys in PARTS for key in keys) == sorted(row.key for row in rows.ROWS)


def test_what_the_emulators_fault_spoilt_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.bench import unspoilt as module

    class FakeLab:
        hosts = ()

        def both(self, work: object) -> tuple[()]:
            return ()

        def collect(self, folder: Path) -> None:
            kept.append(folder)

    kept: list[Path] = []
    # of a guest's console in the lab
    consoles = ["RSP: 0018:ffffc90000023a40 EFLAGS: 04a3a2d2", "RSP: 0018:ffffc90000023a40 EFLAGS: 00010246"]
    answers = iter([TimedOut("web1 to write on"), 5])
    done = []

    def work() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module.logcheck, "consoles", lambda lab, marks: consoles[0])
    assert module.unspoilt(FakeLab(), work, lambda: done.append("prepared")) == 5
    assert done == ["prepared"] and kept == []
    # any other failure is one, and so is a fault that comes each time
    answers = iter([TimedOut("web1 to write on"), 5])
    monkeypatch.setattr(module.logcheck, "consoles", lambda lab, marks: consoles[1])
    with pytest.raises(TimedOut):
        module.unspoilt(FakeLab(), work, lambda: None)
    answers = iter([TimedOut("web1 to write on")] * 3)
    monkeypatch.setattr(module.logcheck, "consoles", lambda lab, marks: consoles[0])
    with pytest.raises(TimedOut):
        module.unspoilt(FakeLab(), work, lambda: None)
    assert kept == [module.LOGS] * 2


def test_a_part_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.bench import __main__ as bench
    from tests.bench import profile

    def fails(lab: object) -> dict[str, Samples]:
        raise hooks.NotMeasured("no taskstats")

    class FakeLab:
        is_up = True

        def claim(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

        def check_alone(self) -> None: ...

    kept: dict[str, Samples] = {}
    monkeypatch.setattr(bench, "Lab", FakeLab)
    monkeypatch.setattr(bench, "unspoilt", lambda lab, work, anew: work())
    monkeypatch.setattr(bench, "PARTS", {("add",): fails, ("list",): lambda lab: {"list": Samples([1], [2])}})
    monkeypatch.setattr(rows, "keep", kept.update)
    monkeypatch.setattr(profile, "run", fails)
    assert bench.measure([]) == 1 and set(kept) == {"list"}
    assert bench.measure(["list"]) == 0
    assert bench.measure(["profile"]) == 1
    with pytest.raises(LabError, match="no row nonsense"):
        bench.measure(["nonsense"])
