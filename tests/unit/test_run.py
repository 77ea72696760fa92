"""The program runner on real programs: output, status, time, children."""

import contextlib
import gc
import os
import time

import pytest

from xenhelper.errors import CommandFailed
from xenhelper.run import run


def test_gives_both_outputs_and_the_status() -> None:
    result = run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], ok=(3,))
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_an_unexpected_status_is_an_error_with_the_last_line() -> None:
    with pytest.raises(CommandFailed, match=r"exit 4\): second") as caught:
        run(["/bin/sh", "-c", "echo first >&2; echo second >&2; exit 4"])
    assert caught.value.status == 4


def test_a_hanging_program_is_killed_with_its_children() -> None:
    started = time.monotonic()
    with pytest.raises(CommandFailed, match="no end within 0.3 s") as caught:
        run(["/bin/sh", "-c", "sleep 300 & echo $!; wait"], timeout=0.3)
    assert time.monotonic() - started < 5
    assert caught.value.status is None
    child = int(caught.value.stderr)
    for _ in range(50):
        try:
            os.kill(child, 0)
            with open(f"/proc/{child}/stat") as stat:
                if stat.read().split()[2] == "Z":
                    break
        except (ProcessLookupError, FileNotFoundError):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the grandchild lives on")


def test_a_grandchild_that_keeps_the_pipes_does_not_hold_us_up() -> None:
    started = time.monotonic()
    assert run(["/bin/sh", "-c", "sleep 5 & echo done"], timeout=20).stdout == "done\n"
    assert time.monotonic() - started < 3


def test_large_output_and_input_pass() -> None:
    data = b"x" * 3_000_000
    assert len(run(["/bin/cat"], stdin=data, timeout=20).stdout) == len(data)


def test_a_program_that_ignores_its_input() -> None:
    assert run(["/bin/true"], stdin=b"x" * 1_000_000).status == 0


def test_the_environment_is_small_and_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    keys = {line.split("=")[0] for line in run(["/usr/bin/env"]).stdout.splitlines()}
    assert {"PATH", "LANG", "LC_ALL"} == keys


def _pipes() -> int:
    """What run() opens; an earlier test's threads may still close sockets."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(link.startswith(("pipe:", "anon_inode:[pidfd]", "/dev/null")) for link in links)


def test_no_descriptor_is_left_open() -> None:
    gc.collect()
    before = _pipes()
    for _ in range(5):
        run(["/bin/true"], stdin=b"x")
        with pytest.raises(CommandFailed):
            run(["/bin/false"])
    assert _pipes() == before


def test_a_missing_program_is_a_plain_error() -> None:
    with pytest.raises(CommandFailed, match="not found"):
        run(["no-such-program-here"])
