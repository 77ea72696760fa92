"""Says at the end of a run how many inputs the fuzz tests made."""

import pytest

from tests.unit import fuzzing


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if fuzzing.RUN:
        for name, number in sorted(fuzzing.RUN.items()):
            terminalreporter.write_line(f"{number:8} {name}")
        terminalreporter.write_line(f"{fuzzing.RUN.total():8} inputs in all")
