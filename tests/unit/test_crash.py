"""Crash points: an armed step is the one that kills, holds or is listed, and no other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xenhelper import crashpoints, intents, paths, statefile


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CRASH_AT", f"{tmp_path}/crash-at")
    monkeypatch.setattr(paths, "INTENTS", f"{tmp_path}/intents")


def arm(text: str) -> None:
    Path(paths.CRASH_AT).write_text(text + "\n")
    os.chmod(paths.CRASH_AT, 0o600)


def child(work: Callable[[], object]) -> int:
    """Run ``work`` in a process of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def killed(pid: int) -> bool:
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def two_steps() -> None:
    """Two durable steps, by their real names."""
    from xenhelper import provision
    from xenhelper.plan import Plan

    plan = Plan("run", "web1", "alice", "10.0.0.1", "bob", "10.0.0.2", "A", ())
    provision.commit_intent(plan, provision.SOURCE)
    provision.done(plan)


def test_kills_before_and_after() -> None:
    arm("before provision:_write:intents.write")
    assert killed(child(two_steps))
    assert intents.read("replicate", "web1") is None
    assert not os.path.exists(paths.CRASH_AT)
    arm("after provision:_write:intents.write")
    assert killed(child(two_steps))
    assert intents.read("replicate", "web1") is not None


def test_only_the_named_step_the_nth_time_and_beneath_its_caller() -> None:
    arm("before provision:done:intents.remove < provision:build")
    assert not killed(child(two_steps))
    arm("before provision:_write:intents.write < provision:commit_intent 2")
    assert not killed(child(two_steps))
    assert Path(paths.CRASH_AT).read_text().endswith(" 1\n")
    assert killed(child(two_steps))


def test_holds_until_told_to_go_on() -> None:
    arm("stop-before provision:_write:intents.write")
    pid = child(two_steps)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
    held = Path(paths.CRASH_AT + ".held").read_text().split()
    assert held == [str(pid), "provision:_write:intents.write"]
    time.sleep(0.05)
    assert intents.read("replicate", "web1") is None
    os.kill(pid, signal.SIGCONT)
    assert not killed(pid)


def test_trace_lists_what_is_taken() -> None:
    arm("trace-before any")
    assert not killed(child(two_steps))
    taken = Path(paths.CRASH_AT + ".trace").read_text().split()
    assert taken == ["provision:_write:intents.write", "provision:done:intents.remove"]


def test_nobody_elses_order_counts() -> None:
    arm("before provision:_write:intents.write")
    os.chmod(paths.CRASH_AT, 0o666)
    assert not killed(child(two_steps))
    assert statefile.names(paths.INTENTS) == []


def test_every_point_has_one_name() -> None:
    names = [point.name for module in crashpoints.modules() for point in crashpoints.points(module)]
    assert len(names) == len(set(names)) > 50
