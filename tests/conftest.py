"""Order, marks and fixtures of a whole run. The lab comes last, and only when the rest passed;
its fixtures are here since tests/contract uses them, too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import again, logcheck
from tests.lab.lab import Lab, LabError

LAB = Path(__file__).parent / "lab"
LOGS = Path(os.environ.get("LAB_LOGS", "build/lab-logs"))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(again)


def _needs_lab(item: pytest.Item | None) -> bool:
    """Whether it is in tests/lab, or marked so (the lab's side of tests/contract)."""
    return item is not None and item.get_closest_marker("lab") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LAB in item.path.parents:
            item.add_marker("lab")
    items.sort(key=_needs_lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None):  # type: ignore[no-untyped-def]
    result = yield
    if _needs_lab(nextitem) and not _needs_lab(item) and item.session.testsfailed:
        item.session.shouldfail = "something failed before the lab: no QEMU is started"
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:  # type: ignore[misc]
    report = yield
    setattr(item, f"report_{report.when}", report)  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def whole_lab() -> Iterator[Lab]:
    """The lab for one pytest run; attaches to one that is up, and leaves it as it found it."""
    lab = Lab()
    was_up = lab.is_up
    try:
        with lab.claim():
            lab.check_alone()
            yield lab
            if not was_up:
                lab.down()
    except LabError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture
def lab(whole_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Both hosts at the test's layer (``@pytest.mark.layer``; vm unless said).

    Afterwards the logs of both hosts are searched; a bad line fails the test
    unless ``@pytest.mark.expects`` names its kind.
    """
    layer = request.node.get_closest_marker("layer")
    folder = LOGS / re.sub(r"[^\w.-]+", "_", request.node.name)
    begun = [logcheck.serial_mark(host) for host in whole_lab.everyone]
    try:
        whole_lab.reset(layer.args[0] if layer else "vm")
    except Exception:
        if whole_lab.is_up:
            text = logcheck.consoles(whole_lab, begun[: len(whole_lab.hosts)])
            setattr(request.node, again.ATTRIBUTE, again.emulator_fault(text))
            print(f"\nlogs: {folder}\n{logcheck.tail(whole_lab.collect(folder))}")
        raise
    marks = whole_lab.both(logcheck.mark)
    yield whole_lab
    expected = [
        name for marker in request.node.iter_markers("expects") for name in marker.args
    ]  # fmt: skip
    report = getattr(request.node, "report_call", None)
    failed = report is None or report.failed
    try:
        found = logcheck.problems(whole_lab, marks, expected)
    except Exception as error:  # a host that doesn't answer is a finding too
        found = [f"the logs can't be read: {error}"]
    if not failed and not found:
        return
    fault = again.emulator_fault(logcheck.consoles(whole_lab, marks))
    setattr(request.node, again.ATTRIBUTE, fault)
    paths = whole_lab.collect(folder)
    print(f"\nlogs: {folder}\n{logcheck.tail(paths)}")
    if found:
        listed = "\n".join(found[:40])
        pytest.fail(f"bad lines in the hosts' logs:\n{listed}", pytrace=False)


@pytest.fixture
def alice(lab: Lab):  # type: ignore[no-untyped-def]
    """The host on which web1 starts."""
    return lab.alice


@pytest.fixture
def bob(lab: Lab):  # type: ignore[no-untyped-def]
    """The other host."""
    return lab.bob


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show a failure at once: a run takes long, and may be cut off before its end."""
    if report.failed and "lab" in report.keywords:
        print(
            f"\n{report.nodeid} {report.when}:\n{report.longreprtext[-6000:]}",
            file=sys.__stderr__,
            flush=True,
        )
