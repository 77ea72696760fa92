"""status: both hosts' view, progress, the last comparison, colours, the live view."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_status import CAPTURED, problems, world
from xenhelper import beneath, intents, paths
from xenhelper.cli import main
from xenhelper.drbd import events, proc
from xenhelper.peer import about
from xenhelper.status import judge, live, text
from xenhelper.verify import results
from xenhelper.xen import domains


def syncing() -> Any:
    seen = world("syncing")
    seen.progress = proc.progress((CAPTURED / "proc-drbd-syncing-alice.txt").read_text())
    return seen


def test_progress_as_the_kernel_printed_it() -> None:
    source = proc.progress((CAPTURED / "proc-drbd-syncing-alice.txt").read_text())[1000]
    assert (source.percent, source.rate, source.left) == (11.8, 440 * 1024, 120)
    target = proc.progress((CAPTURED / "proc-drbd-syncing-bob.txt").read_text())[1000]
    assert (target.percent, target.rate, target.left) == (11.8, 552 * 1024, 95)
    assert proc.progress((CAPTURED / "proc-drbd-connected-idle-alice.txt").read_text()) == {}


def test_thousands_a_full_hundred_and_a_stall() -> None:
    said = (
        " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent A r-----\n"
        "\t[===================>] sync'ed:100.0% (4/65536)K\n\tfinish: 1:02:03 speed: 81,920 (80,000) K/sec\n"
        "11: cs:VerifyS ro:Primary/Secondary ds:UpToDate/UpToDate A r-----\n"
        "\t[>....................] verified:  0.5% (65000/65536)K\n"
        "\tfinish: 9:00:00 speed: 0 (0) want: 40,960 K/sec (stalled)\n"
    )
    found = proc.progress(said)
    assert (found[0].percent, found[0].rate, found[0].left) == (100.0, 80 << 20, 3723)
    assert (found[11].percent, found[11].rate, found[11].left) == (0.5, 0, None)


def test_a_sync_shows_rate_and_time_left() -> None:
    answer = judge.status(syncing())
    disk = answer["vms"][0]["disks"][0]
    assert (disk["activity"], disk["activity_percent"], disk["activity_seconds_left"]) == (
        "SyncSource",
        11.8,
        120,
    )
    shown = text.render(answer)
    assert "syncs from here to bob, 11.8 %, 0.4 MiB/s, 3 min left" in shown


def test_a_sync_has_one_percentage() -> None:
    """events2's (of another moment, and of all that ever differed) isn't shown beside the kernel's."""
    seen = syncing()
    seen.kernel["web1-xvda"].done_percent = 9.1
    answer = judge.status(seen)
    disk = answer["vms"][0]["disks"][0]
    assert disk["sync_percent"] == disk["activity_percent"] == 11.8
    shown = text.render(answer)
    assert "9.1" not in shown and "in sync" not in shown
    assert set(re.findall(r"[\d.]+ %", shown)) == {"11.8 %"}
    seen.progress[1000].percent = 100.0
    assert judge.status(seen)["vms"][0]["disks"][0]["sync_percent"] == 99.99
    # a comparison says nothing of how much is the same
    seen = syncing()
    seen.kernel["web1-xvda"].replication = "VerifyS"
    assert judge.status(seen)["vms"][0]["disks"][0]["sync_percent"] != 11.8


def test_the_last_comparison_and_a_known_difference() -> None:
    seen = world()
    seen.verified["web1-xvda"] = results.Result(
        "web1-xvda", "web1", results.DIFFERS, "alice", "2026-03-01T01:07:00Z", "2026-03-01T01:09:00Z",
        64 << 20, 64 << 20, 4096, ((40960, 4096),), 0, "2026-03-01T01:09:00Z",
    )  # fmt: skip
    seen.kernel["web1-xvda"].out_of_sync = 4096
    answer = judge.status(seen)
    assert "compared 2026-03-01T01:09:00Z: 4096 bytes differ at byte 40960+4096" in text.render(answer)
    assert "warning: web1 xvda: 4096 bytes differ between both hosts" in problems(answer)
    assert "`xenhelper verify web1 --repair --good HOST`" in problems(answer)
    assert judge.exit_code(answer) == 4


def test_the_other_hosts_view_is_shown_where_it_differs() -> None:
    seen = world()
    well = {"connection": "Connected", "role": "Secondary", "disk_state": "UpToDate", "protocol": "A"}
    seen.views = {"web1-xvda": dict(well), "web1-xvdb": {**well, "connection": "StandAlone"}}
    answer = judge.status(seen)
    assert [disk["peer_view"] for disk in answer["vms"][0]["disks"]] == [
        well,
        {**well, "connection": "StandAlone"},
    ]
    shown = text.render(answer)
    assert (
        shown.count("bob sees it") == 1
        and "bob sees it StandAlone, its own side Secondary, UpToDate" in shown
    )


def test_an_intent_that_only_the_other_host_has_is_told_of() -> None:
    seen = world(intents=[{"kind": "window", "vm": "web1", "since": "t"}], working={"web1"})
    seen.theirs = [
        {"kind": "window", "vm": "web1", "since": "t", "host": "bob"},
        {"kind": "recover", "vm": "web1", "since": "t", "host": "bob", "secret": "x"},
    ]
    listed = judge.status(seen)["intents"]
    assert [(one["kind"], one.get("host")) for one in listed] == [("window", None), ("recover", "bob")]
    assert "secret" not in listed[1] and "recover on record on bob" in text.render(judge.status(seen))


def test_what_a_host_answers_of_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {
        "web1-xvda": {"minor": "1000", "peer": "bob", "vm": "web1"},
        "web9-xvda": {"minor": "1001", "peer": "carol", "vm": "web9"},
    }
    monkeypatch.setattr(beneath, "records", lambda: known)
    monkeypatch.setattr(domains, "listing", list)
    monkeypatch.setattr(
        intents, "all_open", lambda: [{"kind": "window", "vm": vm} for vm in ("web1", "web9")]
    )
    said = (CAPTURED / "proc-drbd-syncing-bob.txt").read_text()
    monkeypatch.setattr(proc, "text", lambda: said)
    answer = about.serve_status("bob", {})
    assert answer["resources"] == {
        "web1-xvda": {
            "connection": "SyncTarget", "role": "Secondary", "disk_state": "Inconsistent", "protocol": "A"
        }
    }  # fmt: skip
    assert answer["intents"] == [{"kind": "window", "vm": "web1"}], "another pair's are nobody's business"


def test_percent_in_sync_isnt_that_of_a_comparison() -> None:
    state = events.Resource("web1-xvda")
    state.replication, state.done_percent, state.size = "VerifyS", 12.0, 1 << 30
    assert judge.sync_percent(state) == 100.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal_and_where_nobody_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = judge.status(world("syncing"))
    assert "\033" not in text.render(answer) and "\033[33mwarning\033[0m: web1" in text.render(answer, True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not live.colour(), "captured output is no terminal"
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert live.colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not live.colour()


def _twice(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", sleep)


def test_the_live_view_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _twice(monkeypatch)
    live.watch(lambda: judge.status(syncing()))
    shown = capsys.readouterr().out
    assert shown.count("web1  on alice") == 2 and "\033" not in shown


@pytest.mark.parametrize("rich", [True, False])
def test_the_live_view_on_a_terminal(monkeypatch: pytest.MonkeyPatch, rich: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.live", None)
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    _twice(monkeypatch)
    live.watch(lambda: judge.status(syncing()))
    shown = out.getvalue()
    assert "SyncSource" not in shown and "syncs from here to bob" in shown
    assert ("━" in shown) == rich, "bars need rich"


def test_watch_goes_with_nothing_for_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    assert main.main(["status", "--watch", "--json"]) == 2
