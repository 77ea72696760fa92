"""Evacuation: who moves, in which order, who stays and why."""

from pathlib import Path

import pytest

from xenhelper import evacuate, run, statefile
from xenhelper.evacuate import Guest, Move, plan

GIB = 1 << 20  # in KiB


def test_priority_then_name_and_what_does_not_fit_stays() -> None:
    guests = [Guest("a", "bob", GIB), Guest("b", "bob", 3 * GIB), Guest("db1", "bob", 2 * GIB)]
    moves = plan(guests, ("db*",), {"bob": 4 * GIB}, {})
    assert [(move.vm, bool(move.why)) for move in moves] == [("db1", False), ("a", False), ("b", True)]
    assert moves[2].why == "doesn't fit: it needs 3072 MiB, and bob has 1024 MiB left for it"


def test_each_peer_has_its_own_room_and_silence() -> None:
    guests = [Guest("a", "bob", GIB), Guest("b", "carol", GIB), Guest("c", "", GIB), Guest("d", "dave", GIB)]
    moves = plan(guests, (), {"bob": GIB, "carol": GIB}, {"dave": "dave gave no answer"})
    assert moves == [
        Move("a", "bob"),
        Move("b", "carol"),
        Move("c", "", "none of its disks is replicated"),
        Move("d", "dave", "dave gave no answer"),
    ]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "dict[str, object]":
    """Three guests, enough room, and an xl whose exit statuses are given."""
    seen: dict[str, object] = {"typed": [], "status": {}, "here": {"a", "b", "c"}}
    monkeypatch.setattr(evacuate, "FOLDER", str(tmp_path / "evacuated"))
    monkeypatch.setattr(evacuate, "_here", lambda: [Guest(vm, "bob", GIB) for vm in ("a", "b", "c")])
    monkeypatch.setattr(evacuate, "_rooms", lambda peers: ({"bob": 9 * GIB}, {}))
    monkeypatch.setattr(evacuate, "free_kib", lambda: 9 * GIB)
    monkeypatch.setattr(evacuate, "_runs_on", lambda peer, vm: vm not in seen["here"])  # type: ignore[operator]

    class Settings:
        priority: "tuple[str, ...]" = ()
        host = "alice"

    monkeypatch.setattr(evacuate.config, "load", lambda: Settings())

    def shown(argv: "list[str]") -> int:
        vm = argv[-2]
        # what a return goes by is on disk before anything moves
        assert statefile.read(f"{evacuate.FOLDER}/{vm}") is not None
        seen["typed"].append(" ".join(argv))  # type: ignore[attr-defined]
        status: int = seen["status"].get(vm, 0)  # type: ignore[attr-defined]
        here: "set[str]" = seen["here"]  # type: ignore[assignment]
        if not status:
            here.symmetric_difference_update({vm})
        return status

    monkeypatch.setattr(evacuate, "shown", shown)
    monkeypatch.setattr(evacuate.domains, "find", lambda vm: [vm] if vm in seen["here"] else [])  # type: ignore[operator]
    return seen


def test_the_first_failure_ends_it_and_a_return_brings_back_what_moved(host: "dict[str, object]") -> None:
    said: list[str] = []
    host["status"] = {"b": 3}
    left = evacuate.run(said.append)
    assert left == ["b stays: `xl migrate b bob` ended with 3", "c stays: not tried after that"]
    assert host["typed"] == [f"{evacuate.SHIM} migrate a bob", f"{evacuate.SHIM} migrate b bob"]
    assert list(evacuate.moved()) == ["a"]
    assert evacuate.bring_back(said.append, dry=True) == []
    assert said[-1] == "would type on bob: xl migrate a alice" and list(evacuate.moved()) == ["a"]
    assert evacuate.bring_back(said.append) == []
    assert host["typed"][-1].endswith(f"root@bob {evacuate.SHIM} migrate a alice")  # type: ignore[index]
    assert evacuate.moved() == {} and host["here"] == {"a", "b", "c"}


def test_at_shutdown_each_is_tried(host: "dict[str, object]") -> None:
    host["status"] = {"a": 3}
    left = evacuate.run(lambda line: None, all_of_them=True)
    assert left == ["a stays: `xl migrate a bob` ended with 3"]
    assert sorted(evacuate.moved()) == ["b", "c"]


def test_what_came_back_by_itself_is_off_the_record(host: "dict[str, object]") -> None:
    evacuate.run(lambda line: None)
    host["here"] = {"b"}
    host["status"] = {"a": 1}
    left = evacuate.bring_back(lambda line: None)
    assert left == [
        "a isn't back: `xl migrate a alice` on bob ended with 1",
        "c isn't back: not tried after that",
    ]
    assert sorted(evacuate.moved()) == ["a", "c"]


def test_a_dry_run_notes_nothing(host: "dict[str, object]") -> None:
    said: list[str] = []
    assert evacuate.run(said.append, dry=True) == []
    assert said == [f"would type: xl migrate {vm} bob" for vm in ("a", "b", "c")]
    assert evacuate.moved() == {} and host["typed"] == []


def test_a_shown_program_keeps_our_output_and_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert run.shown(["sh", "-c", "echo here; exit 3"]) == 3
    assert capfd.readouterr().out == "here\n"
