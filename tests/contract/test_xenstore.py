"""xenstore through the product's own client: what simulated stories may rely on."""

from __future__ import annotations

import inspect

import pytest

from tests.sim import store
from xenhelper.xen import xenstore

from .world import Host

HOME = "/local/domain/0"
# what is already there after a watch was set: its own first event
FIRST = ["contract/a", "t"]


@pytest.mark.core
def test_write_read_list_and_remove(alice: Host) -> None:
    found = alice.steps(
        ["a", "read", "contract/a"],
        ["a", "list", "contract"],
        ["a", "remove", "contract/a"],
        ["a", "write", "contract/a", "1"],
        ["a", "write", "contract/a", "2"],
        ["a", "write", "contract/b/c", "3"],
        ["b", "read", "contract/a"],
        ["b", "read", f"{HOME}/contract/b/c"],
        ["b", "read", "contract/b"],
        ["b", "list", "contract"],
        ["b", "remove", "contract/b"],
        ["a", "read", "contract/b/c"],
        ["a", "list", "contract"],
        ["a", "list", "contract/a"],
    )
    assert found[:3] == [None, [], None]  # nothing there is no error
    assert found[6] == "2"
    assert found[7] == "3"  # relative paths are dom0's
    assert found[8] == ""  # a folder is made with its first entry, and reads as empty
    assert sorted(found[9]) == ["a", "b"]
    assert found[10:] == [None, None, ["a"], []]  # removed with all below it


def test_removing_the_last_entry_leaves_the_folder(alice: Host) -> None:
    found = alice.steps(
        ["a", "write", "contract/b/c", "1"],
        ["a", "remove", "contract/b/c"],
        ["a", "list", "contract"],
        ["a", "read", "contract/b"],
    )
    assert found[2:] == [["b"], ""]


def test_values_are_one_printable_line(alice: Host) -> None:
    found = alice.steps(["a", "write", "contract/a", "two\nlines, naïve"], ["a", "read", "contract/a"])
    assert found[1] == "two lines, na?ve"


def test_several_values_are_written_as_one(alice: Host) -> None:
    values = {"contract/a": "1", f"{HOME}/contract/b": "2"}
    found = alice.steps(
        ["b", "watch", f"{HOME}/contract", "t"],
        ["b", "next_event", 5.0],
        ["a", "write_all", values],
        ["b", "next_event", 5.0],
        ["b", "read", "contract/a"],
        ["b", "read", "contract/b"],
        ["b", "next_event", 5.0],
        ["b", "next_event", 0.5],
    )
    assert found[4:6] == ["1", "2"]  # with the first event all of them are there
    assert sorted([found[3], found[6]]) == [[f"{HOME}/contract/a", "t"], [f"{HOME}/contract/b", "t"]]
    assert found[7] is None


def test_a_watch_fires_at_once_and_for_what_is_below(alice: Host) -> None:
    found = alice.steps(
        ["a", "watch", "contract/a", "t"],
        ["a", "next_event", 5.0],
        ["b", "write", "contract/a", "1"],
        ["a", "next_event", 5.0],
        ["b", "write", "contract/a/x", "1"],
        ["a", "next_event", 5.0],
        ["b", "write", "contract/ab", "1"],
        ["b", "write", "contract/b", "1"],
        ["a", "next_event", 0.5],
        ["b", "remove", "contract/a/x"],
        ["a", "next_event", 5.0],
    )
    assert found[1] == found[3] == FIRST  # as it was named: relative
    assert found[5] == found[10] == ["contract/a/x", "t"]
    assert found[8] is None  # neighbours


def test_a_watch_fires_when_its_folder_goes(alice: Host) -> None:
    found = alice.steps(
        ["a", "write", "contract/b/c", "1"],
        ["a", "watch", "contract/b/c", "t"],
        ["a", "next_event", 5.0],
        ["b", "remove", "contract/b"],
        ["a", "next_event", 5.0],
        ["a", "read", "contract/b/c"],
    )
    assert found[4][1] == "t"
    assert found[5] is None


def test_nothing_is_heard_of_what_stays_as_it_is(alice: Host) -> None:
    found = alice.steps(
        ["a", "write", "contract/a", "1"],
        ["a", "watch", "contract/a", "t"],
        ["a", "next_event", 5.0],
        ["b", "read", "contract/a"],
        ["b", "remove", "contract/nosuch"],
        ["a", "next_event", 0.5],
    )
    assert found[5] is None


def test_domains_that_go_are_told_at_first_and_then(alice: Host) -> None:
    """What a migration watches for its guest's suspension (migrate.py): set, it fires once."""
    found = alice.steps(
        ["a", "watch", "@releaseDomain", "xh"], ["a", "next_event", 5.0], ["a", "next_event", 0.5]
    )
    assert found[1] == ["@releaseDomain", "xh"]
    assert found[2] is None


def test_the_simulated_client_has_the_products_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if inspect.isfunction(value) and (name == "__init__" or not name.startswith("_"))
        }

    simulated = methods(store.Client)
    for name, parameters in methods(xenstore.Xenstore).items():
        if name != "fileno":  # nothing simulated polls
            assert simulated[name] == parameters, name
