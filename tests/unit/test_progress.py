"""How far long work has come: a bar on a terminal, lines elsewhere."""

import io
import time

import pytest

from xenhelper.cli.verify import _Bar
from xenhelper.progress import Progress

MIB = 1 << 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_each_tenth_where_it_is_no_terminal() -> None:
    stream = io.StringIO()
    bar = Progress("web1: copied", 10 * MIB, stream=stream)
    for _ in range(10):
        bar.add(MIB // 2)
        bar.add(MIB // 2)
    bar.end()
    said = stream.getvalue().splitlines()
    assert said[0] == "web1: copied: 10 % of 10 MiB" and len(said) == 10


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    bar = Progress("web1: copied", 10 * MIB, 5 * MIB, stream)
    time.sleep(0.01)
    bar.add(5 * MIB)
    bar.end()
    said = stream.getvalue()
    assert said.startswith("\rweb1: copied ########################") and said.endswith("0 s left\x1b[K\n")
    # a dumb one (a log, an editor's shell) takes no control characters
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    Progress("web1: copied", 10 * MIB, 0, stream).add(5 * MIB)
    assert stream.getvalue() == "web1: copied: 50 % of 10 MiB\n"


def test_a_comparison_that_goes_on_elsewhere_says_nothing_before_it_began() -> None:
    stream = io.StringIO()
    bar = _Bar("web1-xvda", stream)
    bar.end()
    assert stream.getvalue() == ""
    bar.show(0, 64 * MIB)
    bar.show(32 * MIB, 64 * MIB)
    bar.show(32 * MIB, 64 * MIB)
    bar.end()
    assert stream.getvalue() == "web1-xvda: compared: 50 % of 64 MiB\n"
