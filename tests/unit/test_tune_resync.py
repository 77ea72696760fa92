"""`tune --resync`: the file on both hosts and what runs, made whole whatever interrupts it."""

import json
from pathlib import Path
from typing import Any

import pytest

from xenhelper import config, intents, paths, statefile
from xenhelper.drbd import events, knobs, resfile, show
from xenhelper.errors import PeerUnreachable, Refused, XenhelperError
from xenhelper.run import Result
from xenhelper.tuning import resync

FAST = knobs.for_link(10_000, 4096)


class Pair:
    """This host in a folder, the peer as answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.ran: list[list[str]] = []
        self.dead = False
        self.there: dict[str, Any] = {"speed": 10_000, "memory": 4096, "knobs": {}}

    def ask(self, peer: str, verb: str, args: dict[str, Any], timeout: float) -> dict[str, Any]:
        if self.dead and verb == "tune-resync":
            raise PeerUnreachable("no answer")
        self.asked.append((verb, args))
        if verb == "tune-resync":
            self.there["knobs"] = {"web1-xvda": args["knobs"]}
        return self.there if verb == "tune-link" else {}

    def run(self, argv: list[str], **_: Any) -> Result:
        self.ran.append(argv)
        return Result(0, "", "")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    fake = Pair()
    for name in ("RESOURCES", "INTENTS", "LOCKS", "DRBD_D"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    record = {"vm": "web1", "vdev": "xvda", "resource": "web1-xvda", "peer": "bob", "minor": "1000"}
    statefile.write(f"{paths.RESOURCES}/web1-xvda", record)
    ends = (
        resfile.End("alice", "10.99.0.1", "/dev/vg0/a", "/dev/vg0/a_xhmeta"),
        resfile.End("bob", "10.99.0.2", "/dev/vg0/a", "/dev/vg0/a_xhmeta"),
    )
    text = resfile.render("web1", [resfile.Entry("web1-xvda", 1000, 7800, "ab" * 16, ends)])
    statefile.write_atomically(resfile.path("web1"), text.encode())
    bob = config.Peer("bob", "10.98.0.2", "10.99.0.2", "10.99.0.1", {})
    settings = config.Config("alice", "1", "2", {"bob": bob}, (), (), (), (), (1, 2), (1, 2), "A")
    monkeypatch.setattr(config, "load", lambda: settings)
    monkeypatch.setattr(resync, "ask", fake.ask)
    monkeypatch.setattr(resync, "run_program", fake.run)
    monkeypatch.setattr(resync.link, "facts", lambda *_: {"speed": 25_000, "memory": 8192})
    monkeypatch.setattr(resync.bringup, "adm", lambda *_: None)

    def one(name: str) -> events.Resource:
        state = events.Resource(name)
        state.minor, state.disk = 1000, "UpToDate"
        return state

    def shown(name: str) -> show.Settings:
        settings = show.Settings(name)
        settings.local, settings.remote = "ipv4:10.99.0.1:7800", "ipv4:10.99.0.2:7800"
        return settings

    monkeypatch.setattr(resync.events, "one", one)
    monkeypatch.setattr(resync.show, "one", shown)
    return fake


def file() -> str:
    return Path(resfile.path("web1")).read_text()


def test_both_hosts_get_it_once(pair: Pair) -> None:
    before = file()
    changed, failed = resync.run(["web1"])
    assert failed == [] and len(changed) == 1 and "c-max-rate 715M" in changed[0]
    assert resfile.knobs(file()) == {"web1-xvda": FAST}
    assert resfile.secrets(file()) == resfile.secrets(before)
    record = statefile.read(f"{paths.RESOURCES}/web1-xvda") or {}
    assert json.loads(record["knobs"]) == FAST.to_json(), "for a file that is lost"
    assert ("tune-resync", {"vm": "web1", "knobs": FAST.to_json()}) in pair.asked
    assert [argv[:3] for argv in pair.ran] == [
        ["drbdsetup", "disk-options", "1000"],
        ["drbdsetup", "net-options", "ipv4:10.99.0.1:7800"],
    ]
    assert not any("protocol" in word or "two-primaries" in word for argv in pair.ran for word in argv)
    assert intents.all_open() == []
    pair.ran.clear()
    assert resync.run([]) == ([], []) and pair.ran == []


def test_a_dry_run_and_a_wrong_name(pair: Pair) -> None:
    before = file()
    assert len(resync.run([], dry_run=True)[0]) == 1
    assert file() == before and pair.ran == []
    with pytest.raises(XenhelperError, match="web9: not replicated"):
        resync.run(["web9"])


def test_what_was_cut_short_is_made_whole(pair: Pair) -> None:
    before = file()
    pair.dead = True
    changed, failed = resync.run(["web1"])
    assert changed == [] and "no answer" in failed[0]
    assert file() == before and intents.read("tune", "web1") is not None, "to be made again"
    pair.dead = False
    assert resync.recover("web1") == "tuned"
    assert resfile.knobs(file()) == {"web1-xvda": FAST} and intents.all_open() == []
    assert resync.recover("web1") == ""


def test_of_a_vm_that_is_forgotten_nothing_is_left(pair: Pair) -> None:
    pair.dead = True
    resync.run(["web1"])
    statefile.remove(f"{paths.RESOURCES}/web1-xvda")
    assert resync.recover("web1") == "dropped" and intents.all_open() == []


def test_nothing_is_touched_while_a_migration_is_open(pair: Pair) -> None:
    before = file()
    statefile.write(f"{paths.INTENTS}/window-web1", {"kind": "window", "vm": "web1"})
    assert "isn't finished" in resync.run(["web1"])[1][0]
    with pytest.raises(Refused):
        resync.serve_resync("bob", {"vm": "web1", "knobs": FAST.to_json()})
    assert file() == before and pair.ran == []


def test_a_peer_may_only_ask_for_what_drbd_allows_and_for_its_own(pair: Pair) -> None:
    before = file()
    for knobs_ in ({"c_max_rate": "1M; on-io-error"}, {"disk_flushes": 0}, {"max_buffers": 10**9}):
        with pytest.raises(XenhelperError, match="can't be read"):
            resync.serve_resync("bob", {"vm": "web1", "knobs": knobs_})
    with pytest.raises(Refused, match="isn't replicated between eve"):
        resync.serve_resync("eve", {"vm": "web1", "knobs": FAST.to_json()})
    assert file() == before and pair.ran == []
    assert resync.serve_resync("bob", {"vm": "web1", "knobs": FAST.to_json()}) == {}
    assert resfile.knobs(file()) == {"web1-xvda": FAST}


def test_a_foreign_file_is_left_alone(pair: Pair) -> None:
    Path(resfile.path("web1")).write_text("resource web1 { }\n")
    assert "isn't what xenhelper wrote" in resync.run(["web1"])[1][0]
    assert file() == "resource web1 { }\n"
