"""The lab's own judgement: what counts as at rest, lost, certain, run and to be run again."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from tests.lab import again, faults, figures, full, logcheck, provisioning, report, results, settle
from tests.lab.guest import BootReport, since
from tests.lab.results import FAILED, PASSED, Result
from tests.lab.witness import SYNCHRONOUS, Seen, Told, certain, last, missing, spans
from xenhelper import crashpoints

MINORS = {"web1-xvda": 1000}
LOOK = """== show web1-xvda
resource web1-xvda {
    net {
        protocol            A;
    }
}
== domains
0 Domain-0 r-----
3 web1 -b----
== kernel
version: 8.4.11
1000: cs:Connected ro:%s ds:UpToDate/UpToDate A r-----
    ns:0 nr:0
== intents
== marks
== work
== backends
3
== temporary
"""


def views() -> tuple[settle.View, settle.View]:
    alice = settle.parse("alice", LOOK % "Primary/Secondary")
    bob = settle.parse(
        "bob", (LOOK % "Secondary/Primary").replace("3 web1 -b----\n", "").replace("\n3\n", "\n")
    )
    return alice, bob


def test_at_rest() -> None:
    assert settle.judge(views(), "web1", MINORS) == []


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("protocol            A", "protocol            C", "Net(protocol='C'"),
        ("A;", "A;\n allow-two-primaries yes;", "two_primaries=True"),
        ("3 web1 -b----", "3 web1--migratedaway ---ss-", "--migratedaway"),
        ("3 web1 -b----", "3 web1 ---ss-", "runs on no host"),
        ("3 web1 -b----", "3 web1 -b----\n4 (null) --ps-d", "(null)"),
        ("cs:Connected", "cs:StandAlone", "StandAlone"),
        ("UpToDate/UpToDate", "UpToDate/Inconsistent", "Inconsistent"),
        ("== intents\n", "== intents\nwindow-web1\n", "intent window-web1"),
        ("== work\n", "== work\n123 xl migrate web1 bob\n", "process 123"),
        ("== backends\n", "== backends\n2\n", "domain 2, which is gone"),
    ],
)
def test_not_at_rest(old: str, new: str, word: str) -> None:
    text = LOOK % "Primary/Secondary"
    assert old in text
    wrong = settle.judge((settle.parse("alice", text.replace(old, new)), views()[1]), "web1", MINORS)
    assert any(word in line for line in wrong), wrong


def test_running_twice_is_seen() -> None:
    alice, bob = views()
    both = (alice, dataclasses.replace(bob, domains=alice.domains))
    assert settle.running(both, "web1") == ["alice", "bob"]


def samples(*looks: tuple[float, tuple[str, str, str]]) -> list[Seen]:
    return [Seen(at, 1000, state) for at, state in looks]


def test_only_what_was_surely_written_at_c_counts() -> None:
    steady = ("Connected", "Primary", "A")
    alone = ("WFConnection", "Primary", "C")
    seen = samples((0, steady), (1, SYNCHRONOUS), (5, SYNCHRONOUS), (9, SYNCHRONOUS), (9.2, alone))
    assert spans(seen, 1000) == [(1, 9)]
    told = [
        Told(at, "xvda", acked) for at, acked in ((0.5, 10), (1.5, 20), (3, 40), (7, 80), (8, 90), (10, 99))
    ]
    assert certain(told, seen, "xvda", 1000) == 80
    assert certain(told[:3], seen, "xvda", 1000) == 0  # 40 may have been acknowledged at A
    assert certain(told[:4], seen, "xvda", 1000) == 80
    assert certain(told, seen, "xvdb", 1000) == 0
    assert last(told) == {"xvda": 99}


def test_missing_blocks_are_counted() -> None:
    boots = [BootReport("xvda", 95, 95, 0, 95), BootReport("xvdb", 50, 50, 0, 50)]
    assert missing({"xvda": 99, "xvdb": 50}, boots) == {"xvda": 4}


def test_orders_name_steps_that_exist() -> None:
    known = {point.name for module in crashpoints.modules() for point in crashpoints.points(module)}
    orders = [phase.order for phase in faults.PHASES if phase.order]
    orders += [kill.order for kill in provisioning.kills()]
    assert {order.split()[1] for order in orders} - known == set()
    for order in orders:
        _, arrow, outer = order.partition(" < ")
        if arrow:
            module, _, function = outer.split()[0].partition(":")
            source = Path(crashpoints.__file__).with_name(f"{module}.py").read_text()
            assert f"def {function.split('.')[-1]}(" in source, order


def test_the_matrix_is_whole() -> None:
    ids = [f"{phase.name}-{fault}" for phase, fault in faults.cases()]
    assert len(ids) == len(set(ids)) >= 9 * 5
    assert set(faults.PERSON) <= {(phase.name, fault) for phase, fault in faults.cases()}
    assert len(ids) + len(provisioning.kills()) >= 80
    assert len({kill.id for kill in provisioning.kills()}) == len(provisioning.kills())


def test_permission_is_measured() -> None:
    assert figures.allowed("0 1.0\n1 2.0\n1 2.5\n0 3.5\n0 4\n1") == 1.5


def result(case: str, outcome: str, product: str = "b1", **changes: object) -> Result:
    made = Result(case, "trixie", product, "abc", "2026-01-01T00:00:00Z", 60.0, outcome)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_results_survive_a_broken_line_and_say_what_is_due(tmp_path: Path) -> None:
    file = tmp_path / "cache/results.jsonl"
    results.append(result("a", FAILED), file)
    results.append(result("a", PASSED), file)
    with file.open("a") as torn:
        torn.write('{"case": "b", "rel')
    results.append(result("b", PASSED, "b2"), file)
    results.append(result("c", FAILED), file)
    found = results.load(file)
    assert [r.case for r in found] == ["a", "a", "b", "c"]
    assert results.passed(found, "trixie", "b1") == {"a"}
    assert results.passed(found, "trixie", "b2") == {"b"}
    assert results.passed(found, "bookworm", "b1") == set()
    assert results.failed(found, "trixie") == {"c"}


def test_outcomes_from_what_pytest_says() -> None:
    assert full.outcome_of(0, "x\n1 passed in 3s\n") == PASSED
    assert full.outcome_of(0, "1 skipped in 3s") == results.SKIPPED
    assert full.outcome_of(1, "1 failed in 3s") == FAILED
    with pytest.raises(full.Interrupted):
        full.outcome_of(2, "the lab is in use")
    assert full.tail_of("a\nE   why\nb\n") == ["E   why"]


def deb(
    folder: Path, name: str, doc: str, code: str, control: str = "Version: 1\n", script: str = ""
) -> Path:
    """A real .deb, so that dpkg-deb reads it."""
    root = folder / name
    for path, text in (
        (
            "DEBIAN/control",
            f"Package: x\nArchitecture: all\nMaintainer: x <x@y.z>\n{control}Description: x\n",
        ),
        ("DEBIAN/postinst", f"#!/bin/sh\n{script}"),
        ("usr/share/doc/x/results.md", doc),
        ("usr/lib/x.py", code),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "DEBIAN/postinst").chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", root, f"{root}.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Path(f"{root}.deb")


def test_a_build_is_what_it_does_without_docs_and_version(tmp_path: Path) -> None:
    one = results.product_hash(deb(tmp_path, "one", "old", "code"))
    assert one == results.product_hash(deb(tmp_path, "two", "new", "code", "Version: 2\n"))
    assert one != results.product_hash(deb(tmp_path, "three", "old", "other code"))
    needs = "Version: 1\nDepends: lvm2\n"
    assert one != results.product_hash(deb(tmp_path, "four", "old", "code", needs))
    assert one != results.product_hash(deb(tmp_path, "five", "old", "code", script="depmod\n"))


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RELIABILITY", tmp_path / "reliability.md")
    monkeypatch.setattr(report, "FIGURES", tmp_path / "figures.md")
    report.RELIABILITY.write_text(f"Words.\n{report.BEGIN}\nold\n{report.END}\nMore words.\n")
    struck = "tests/lab/test_faults.py::test_migration_under_fire[drained-power-source]"
    lost = {"what": "drained, power-source", "lost_at_a": {"xvda": 3}}
    moved = {"what": "alice to bob", "seconds": 70.0, "1000": {"downtime": 9.0}, "1001": {"downtime": 9.5}}
    found = [
        result(struck, PASSED, figures=[lost]),
        result("tests/lab/test_x.py::test_y", FAILED),
        result("tests/lab/test_migrate.py::test_z", PASSED, figures=[moved]),
    ]
    assert report.write(found) == 0
    text = report.RELIABILITY.read_text()
    assert text.startswith("Words.\n") and text.endswith("More words.\n") and "old" not in text
    assert "| drained | not run | passed 2026-01-01 abc |" in text
    assert "| test_x.py::test_y | failed | 2026-01-01 | abc |" in text and "xvda: 3" in text
    assert "2 of 3 cases passed" in text
    assert "| alice to bob | trixie | 2026-01-01 | abc | 70.0 | 9.5 |" in report.FIGURES.read_text()
    assert report.write(found) == 0  # again, the same
    assert report.RELIABILITY.read_text() == text


def test_cases_are_found() -> None:
    cases = full.collect("test_migration_under_fire and both-primary-power-source")
    assert cases == ["tests/lab/test_faults.py::test_migration_under_fire[both-primary-power-source]"]


def test_boots_are_told_apart_when_a_hosts_log_lost_its_end() -> None:
    first = [BootReport("xvda", 0, 0, 0, 0), BootReport("xvdb", 0, 0, 0, 0)]
    second = [BootReport("xvda", 9, 9, 0, 9), BootReport("xvdb", 7, 7, 0, 7)]
    assert since(first, first) == []
    assert since(first, [*first, *second]) == second
    assert since(first, second) == second  # all of the log was lost
    assert since(first, [first[0], *second]) == second


def test_a_split_brain_that_drbd_solves_is_told_from_one_that_it_does_not() -> None:
    # captured from the hosts (in-add-cut-link; test_power's two histories)
    solved = (
        "drbd web1-xvda/0 drbd1000: helper command: /sbin/drbdadm initial-split-brain minor-1000\n"
        "drbd web1-xvda/0 drbd1000: Split-Brain detected, 1 primaries, automatically solved. "
        "Sync from this node\n"
    )
    left = "drbd web1-xvda/0 drbd1000: Split-Brain detected but unresolved, dropping connection!\n"
    assert [line.split(":")[0] for line in logcheck.find(solved + left)] == [
        "split-brain-solved", "split-brain",
    ]  # fmt: skip
    assert [line.split(":")[0] for line in logcheck.find(solved + left, ["split-brain-solved"])] == [
        "split-brain"
    ]


def test_flags_that_no_processor_has_are_the_emulators_fault() -> None:
    # captured: dom0's memcpy_orig, and a guest's; then a plain one
    assert again.emulator_fault("[  441.764747] RSP: e02b:ffffc90040d8b6a0 EFLAGS: 0e540606")
    assert again.emulator_fault("x\n[  117.704570] RSP: 0018:ffffc90000703520 EFLAGS: 0496b666\n")
    assert not again.emulator_fault("RSP: 0018:ffffc90000703520 EFLAGS: 00010246\nEFLAGS: 003f0246")


def test_a_case_is_run_once_more_only_for_that(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        from tests.lab import again
        def pytest_configure(config):
            config.addinivalue_line("markers", "lab: x")
            config.pluginmanager.register(again)
    """)
    pytester.makepyfile("""
        import pytest
        runs = {"once": 0, "twice": 0, "other": 0}
        def go(request, name, fault):
            runs[name] += 1
            request.node.emulator_fault = fault
        @pytest.mark.lab
        def test_once(request):
            go(request, "once", "EFLAGS" if runs["once"] == 0 else "")
            assert runs["once"] == 2
        @pytest.mark.lab
        def test_twice(request):
            go(request, "twice", "EFLAGS")
            assert False
        @pytest.mark.lab
        def test_other(request):
            go(request, "other", "")
            assert False
        def test_runs():
            assert runs == {"once": 2, "twice": 2, "other": 1}
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=2)
