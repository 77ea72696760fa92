"""No time limit for one generated input, since a busy machine isn't a fault; and how many
inputs the fuzz tests made, at the end of a run."""

import pytest
from hypothesis import settings

from tests.unit import fuzzing

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if fuzzing.RUN:
        for name, number in sorted(fuzzing.RUN.items()):
            terminalreporter.write_line(f"{number:8} {name}")
        terminalreporter.write_line(f"{fuzzing.RUN.total():8} inputs in all")
