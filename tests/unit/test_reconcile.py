"""The reconciler's round over all VMs: what it says and what it leaves alone in silence."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from xenhelper import halfopen, intents, paths, reconcile, statefile
from xenhelper.cli import reconcile as command
from xenhelper.errors import Busy, PeerUnreachable, Refused, XenhelperError
from xenhelper.peer import client
from xenhelper.run import Result
from xenhelper.xen import domains


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RESOURCES", "RUN", "LOCKS", "INTENTS"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(domains, "listing", lambda: [])
    monkeypatch.setattr(intents, "all_open", lambda: [])
    for vm in ("db1", "web1"):
        statefile.write(f"{paths.RESOURCES}/{vm}-xvda", {"resource": f"{vm}-xvda", "vm": vm, "peer": "bob"})
    return tmp_path


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Busy("web1 is being set up from bob at this moment"), []),
        (Refused("web1 can't be done"), ["web1: web1 can't be done"]),
        (XenhelperError("drbdsetup failed"), ["web1: drbdsetup failed"]),
    ],
)
def test_who_is_at_work_is_no_trouble(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: XenhelperError, said: list[str]
) -> None:
    seen = []

    def one(vm: str, *rest: Any) -> list[str]:
        seen.append(vm)
        if vm == "web1":
            raise error
        return []

    monkeypatch.setattr(reconcile, "_vm", one)
    monkeypatch.setattr(halfopen, "drop", lambda peers, dry_run: [])
    assert reconcile.reconcile() == said
    assert seen == ["db1", "web1"]


def test_a_dead_ssh_is_looked_for_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    monkeypatch.setattr(halfopen, "drop", lambda peers, dry_run: order.append((peers, dry_run)) or [])
    monkeypatch.setattr(reconcile, "_vm", lambda vm, *rest: order.append(vm) or [])
    reconcile.reconcile()
    assert order == [(["bob"], False), "db1", "web1"]


RUNS_THERE = {"domains": [{"name": "web1", "state": "-b----"}]}
INCOMING = domains.Domain(7, "web1--incoming", "--p---", "0")


@pytest.mark.parametrize(
    ("before", "busy", "migrating", "destroyed"),
    [
        ([INCOMING], {"busy": False}, False, True),  # left over: the xl that made it is gone
        ([INCOMING], {"busy": True}, False, False),
        ([INCOMING], PeerUnreachable("silent"), False, False),  # it may be at work
        ([INCOMING], {"busy": False}, True, False),  # an xl migrate-receive is at work here
        ([], {"busy": False}, False, False),  # came while the other host was asked
    ],
)
def test_only_a_copy_that_was_left_is_destroyed(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: list[domains.Domain],
    busy: "dict[str, object] | Exception",
    migrating: bool,
    destroyed: bool,
) -> None:
    here = list(before)
    programs = []

    def ask(peer: str, verb: str, args: dict[str, object], timeout: float = 0) -> dict[str, object]:
        here[:] = [INCOMING]
        if verb == "runs":
            return RUNS_THERE
        if isinstance(busy, Exception):
            raise busy
        return busy

    def program(argv: list[str], **_: object) -> Result:
        programs.append(argv[1:])
        return Result(0, "", "")

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr("xenhelper.run.run", program)
    monkeypatch.setattr(domains, "find", lambda vm: list(here))
    monkeypatch.setattr(domains, "migrating", lambda vm: migrating)
    monkeypatch.setattr(domains, "real_xl", lambda: "xl")
    reconcile._close("web1", [], {"source": "bob", "destination": "alice"}, False)
    assert programs == ([["destroy", "web1--incoming"]] if destroyed else [])


@pytest.mark.parametrize(
    ("here", "there", "action"),
    [
        ("--p---", [], reconcile.DESTROY_INCOMING),  # its source lost its power
        ("--p---", None, reconcile.LEAVE),  # or only the link
        ("r-----", [], reconcile.LEAVE),
        ("--p---", [("web1", "---ss-")], reconcile.LEAVE),
        ("--p---", [("web1--migratedaway", "---ss-")], reconcile.LEAVE),
        ("--p---", [("web1", "-b----")], reconcile.DESTROY_INCOMING),
    ],
)
def test_an_unfinished_copy_goes_only_where_the_guest_cannot_need_it(
    here: str, there: list[tuple[str, str]] | None, action: str
) -> None:
    assert reconcile.decide(reconcile.Seen("web1", [("web1--incoming", here)], there))[0] == action


def test_what_the_journal_has_isnt_printed_into_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a unit each line stood there twice: logged, and as the unit's stderr."""
    monkeypatch.setattr(reconcile, "reconcile", lambda vms, dry_run: ["web1: look at it"])
    args = argparse.Namespace(vm=[], from_volumes=False, dry_run=False)
    monkeypatch.setenv("JOURNAL_STREAM", "9:123456")  # inherited by what writes elsewhere
    assert command.run(args) == 1 and capfd.readouterr().err == "web1: look at it\n"
    stream = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stream.st_dev}:{stream.st_ino}")
    assert command.run(args) == 1 and capfd.readouterr().err == ""
