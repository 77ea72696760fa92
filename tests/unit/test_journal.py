"""The log read back: whose entries, in which order, what a peer may read."""

import datetime
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from xenhelper import journal, paths, statefile
from xenhelper.cli import main
from xenhelper.errors import PeerUnreachable, XenhelperError
from xenhelper.journal import Entry
from xenhelper.peer import client, verbs

NOW = 1_800_000_000.0


class Reader:
    """What of systemd.journal.Reader is used, over a list (oldest first)."""

    entries: "list[dict[str, Any]]" = []  # noqa: RUF012

    def __init__(self) -> None:
        self.matches: dict[str, str] = {}
        self.left: list[dict[str, Any]] = []

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_match(self, **fields: str) -> None:
        self.matches |= fields

    def seek_tail(self) -> None:
        self.left = [e for e in self.entries if self.matches.items() <= e.items()]

    def get_previous(self) -> dict[str, Any]:
        return self.left.pop() if self.left else {}


def raw(at: float, message: str, uid: str = "0", **fields: Any) -> dict[str, Any]:
    return {
        "__REALTIME_TIMESTAMP": datetime.datetime.fromtimestamp(NOW + at, datetime.UTC),
        "SYSLOG_IDENTIFIER": "xenhelper", "_UID": uid, "_HOSTNAME": "alice", "MESSAGE": message,
        "PRIORITY": "6",
        **{f"XENHELPER_{key.upper()}": value for key, value in fields.items()},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RESOURCES", str(tmp_path / "resources"))
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name, vm, peer in (("web1-xvda", "web1", "bob"), ("odd", "web1", "bob"), ("db-xvda", "db", "carol")):
        statefile.write(f"{paths.RESOURCES}/{name}", {"resource": name, "vm": vm, "peer": peer})
    fake = types.ModuleType("systemd.journal")
    fake.Reader = Reader  # type: ignore[attr-defined]
    package = types.ModuleType("systemd")
    package.journal = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", package)
    monkeypatch.setitem(sys.modules, "systemd.journal", fake)
    monkeypatch.setattr(journal.time, "localtime", journal.time.gmtime)
    monkeypatch.setattr(journal.time, "time", lambda: NOW + 100)
    Reader.entries = [
        raw(
            0, "web1: protocol C for a migration to bob", event="window-open", vm="web1", intent="window-web1"
        ),
        raw(1, "web1-xvda: two-primaries yes", event="window-granted", resource="web1-xvda"),
        raw(2, "forged", uid="1000", event="note", vm="web1"),
        raw(3, "odd: by its record only", resource="odd"),
        raw(4, "xl create: web1: no connection", event="refused"),
        raw(5, "web10 is another, and so is web1.org"),
        raw(6, "db-xvda is db's disk now", event="added", vm="db", resource="db-xvda"),
        raw(7, "gone-xvda: of a VM that was", resource="gone-xvda"),
        raw(8, b"web1: bytes \xff", vm="web1", seconds="61.50", priority="x"),
    ]


def messages(found: list[Entry]) -> list[str]:
    return [entry.message.split(":")[0].split(" ")[0] for entry in found]


def test_one_vms_entries_in_order_and_only_roots() -> None:
    assert messages(journal.read("web1", 0.0, 100)) == ["web1", "web1-xvda", "odd", "xl", "web1"]
    assert len(journal.read("", 0.0, 100)) == 8
    assert messages(journal.read("gone", 0.0, 100)) == ["gone-xvda"]
    assert messages(journal.read("web1", 0.0, 2)) == ["xl", "web1"]
    assert messages(journal.read("web1", NOW + 2, 100)) == ["odd", "xl", "web1"]


def test_a_peer_reads_of_vms_that_it_shares() -> None:
    function, schema = verbs.handler("log")
    assert set(schema) == {"vm", "since", "limit"}
    everything = function("bob", {"vm": "", "since": 0.0, "limit": 100})["entries"]
    assert [entry["message"].split(":")[0] for entry in everything] == [
        "web1", "web1-xvda", "odd", "xl create", "web1",
    ]  # fmt: skip
    assert function("bob", {"vm": "db", "since": 0.0, "limit": 100})["entries"] == []
    assert function("dave", {"vm": "", "since": 0.0, "limit": 100})["entries"] == []
    assert len(function("bob", {"vm": "web1", "since": 0.0, "limit": 1})["entries"]) == 1
    Reader.entries = [raw(n, "web1: " + "x" * 5000, vm="web1") for n in range(600)]
    answer = function("bob", {"vm": "web1", "since": 0.0, "limit": 10**9})
    assert 100 < len(answer["entries"]) <= journal.MAX_ENTRIES and len(json.dumps(answer)) < 256 * 1024
    with pytest.raises(XenhelperError):
        function("bob", {"vm": "../x", "since": 0.0, "limit": 1})


def test_both_hosts_stories_are_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {"time": NOW + 1.5, "host": "x", "kind": "added", "message": "web1-xvda is its disk now",
              "vm": "web1", "resource": "web1-xvda", "intent": "", "seconds": "2.10",
              "priority": 4}  # fmt: skip
    asked: list[Any] = []

    def answer(peer: str, verb: str, args: dict[str, Any], timeout: float) -> dict[str, Any]:
        asked.append((peer, verb, args["vm"]))
        return {"entries": [theirs, {"rubbish": 1}, {**theirs, "time": "x"}]}

    monkeypatch.setattr(client, "ask", answer)
    assert main.main(["log", "web1", "--since", "2000d"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert asked == [("bob", "log", "web1")]
    assert lines[0] == "Friday, 2027-01-15"
    assert lines[1:4] == [
        "  08:00:00   alice  web1: protocol C for a migration to bob",
        "  08:00:01   alice  web1-xvda: two-primaries yes",
        "  08:00:01 * bob    web1-xvda is its disk now (2.10 s)",
    ]
    assert lines[-1].endswith("web1: bytes \N{REPLACEMENT CHARACTER} (61.50 s)")


def test_a_silent_peer_and_bad_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(*_: Any, **__: Any) -> None:
        raise PeerUnreachable("bob gave no answer")

    monkeypatch.setattr(client, "ask", silent)
    assert main.main(["log", "web1", "--json", "--since", "2027-01-15T08:00:03Z"]) == 0
    said = capsys.readouterr()
    assert "bob's part is missing" in said.err
    assert [json.loads(line)["kind"] for line in said.out.splitlines()] == ["note", "refused", "note"]
    assert main.main(["log", "--here", "--since", "5m"]) == 0 and "bob" not in capsys.readouterr().err
    assert main.main(["log", "web1", "--since", "yesterday"]) == 2
    assert main.main(["log", "web1", "-n", "0"]) == 2
    assert main.main(["log", "we/b"]) == 2
    assert main.main(["log", "nothing", "--here"]) == 0


def test_a_vm_is_named_where_the_line_doesnt() -> None:
    entries = [Entry(NOW, "alice", "note", "something", "web1"), Entry(NOW + 86400, "bob", "note", "x: 2 s")]
    lines = journal.story(entries, False).splitlines()
    assert (
        lines[1].endswith("alice  web1: something") and lines[2] == "" and lines[4].endswith("bob    x: 2 s")
    )


def test_without_pythons_journal() -> None:
    sys.modules["systemd.journal"] = None  # type: ignore[assignment]
    with pytest.raises(XenhelperError, match="python3-systemd"):
        journal.read("", 0.0, 1)
