"""``xl create`` of a known VM: what is refused in one line before anything of it starts."""

from pathlib import Path

import pytest

from xenhelper import create, paths, statefile
from xenhelper.drbd import proc
from xenhelper.errors import Refused

RECORD = {"resources": "web1-xvda,web1-xvdb"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "RESOURCES", str(tmp_path))
    for number, vdev in enumerate(("xvda", "xvdb")):
        name = f"web1-{vdev}"
        record = {"resource": name, "vm": "web1", "peer": "bob", "minor": str(1000 + number)}
        statefile.write(f"{paths.RESOURCES}/{name}", record)
    return tmp_path


def shown(monkeypatch: pytest.MonkeyPatch, connection: str, roles: str, disks: str) -> None:
    """The first disk is well, the second as given."""
    text = (
        "version: 8.4.11 (api:1/proto:86-101)\n"
        "1000: cs:Connected ro:Secondary/Secondary ds:UpToDate/UpToDate A r-----\n"
        f"1001: cs:{connection} ro:{roles} ds:{disks} A r-----\n"
    )
    monkeypatch.setattr(proc, "text", lambda: text)


@pytest.mark.parametrize(
    ("connection", "roles", "disks", "words"),
    [
        ("Connected", "Secondary/Primary", "UpToDate/UpToDate", "web1: web1-xvdb is in use on bob"),
        (
            "SyncTarget",
            "Secondary/Secondary",
            "Inconsistent/UpToDate",
            "copy is Inconsistent; start it on bob",
        ),
        ("WFConnection", "Secondary/Unknown", "Outdated/DUnknown", "copy is Outdated.*takeover web1"),
        ("Connected", "Secondary/Secondary", "Diskless/UpToDate", "copy is Diskless"),
        ("Connected", "Secondary/Secondary", "UpToDate/UpToDate", ""),
        ("SyncSource", "Secondary/Secondary", "UpToDate/Inconsistent", ""),
        ("WFConnection", "Secondary/Unknown", "UpToDate/DUnknown", ""),  # its script asks bob
        ("WFConnection", "Secondary/Unknown", "Consistent/DUnknown", ""),
    ],
)
def test_one_disk_that_cant_start_stops_all(
    root: Path, monkeypatch: pytest.MonkeyPatch, connection: str, roles: str, disks: str, words: str
) -> None:
    """In the lab the other disk's script had promoted by then, and alice stepped back from it."""
    shown(monkeypatch, connection, roles, disks)
    if not words:
        assert create._up("web1", RECORD)
        return
    with pytest.raises(Refused, match=words):
        create._up("web1", RECORD)


def test_what_isnt_up_goes_the_long_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "text", lambda: "version: 8.4.11\n")
    assert not create._up("web1", RECORD)
