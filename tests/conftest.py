"""Order and marks of a whole run: the lab comes last, and only when the rest passed."""

from pathlib import Path

import pytest

LAB = Path(__file__).parent / "lab"


def _in_lab(item: pytest.Item | None) -> bool:
    return item is not None and LAB in item.path.parents


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _in_lab(item):
            item.add_marker("lab")
    items.sort(key=_in_lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None):  # type: ignore[no-untyped-def]
    result = yield
    if _in_lab(nextitem) and not _in_lab(item) and item.session.testsfailed:
        item.session.shouldfail = "something failed before the lab: no QEMU is started"
    return result
