"""status: split brains with both sides' story, what waits, xendomains' defaults."""

from pathlib import Path

import pytest

from tests.unit.test_status import problems, world
from xenhelper import paths, splitbrain, statefile
from xenhelper.errors import PeerUnreachable
from xenhelper.status import judge, read


def side(host: str, **more: object) -> dict[str, object]:
    return {
        "host": host, "up": True, "role": "Primary", "disk": "UpToDate", "changed_bytes": 3 << 20,
        "since": "2026-03-01T12:00:00Z", "in_sync_at": "2026-03-01T11:00:00Z", "domains": [], **more,
    }  # fmt: skip


def test_a_split_brain_tells_both_sides_story_and_both_ways_out() -> None:
    seen = world()
    seen.kernel["web1-xvda"].connection = "StandAlone"
    seen.splits["web1-xvda"] = (side("alice", domains=["web1"]), side("bob", ran_at="2026-03-01T11:30:00Z"))
    text = problems(judge.status(seen))
    assert "critical: split brain of web1-xvda, found 2026-03-01T12:00:00Z" in text
    assert "last in sync 2026-03-01T11:00:00Z" in text
    assert "alice: 3 MiB changed; runs web1 now" in text
    assert "bob: 3 MiB changed; the VM was started here last 2026-03-01T11:30:00Z" in text
    assert "--discard alice" in text and "--discard bob" in text
    assert "StandAlone" not in text  # said once
    assert judge.exit_code(judge.status(seen)) == 5


def test_a_silent_peer_leaves_its_half_of_the_story_out() -> None:
    seen = world()
    seen.splits["web1-xvda"] = (side("alice"), None)
    assert "bob: doesn't answer" in problems(judge.status(seen))
    assert judge.status(seen, ["other"])["problems"] == []


def test_what_waits_for_the_other_host() -> None:
    text = problems(judge.status(world(wanted=["web1"])))
    assert "web1 waits to be started until its other host answers" in text and "takeover web1" in text


def test_a_primary_without_a_disk_is_well_at_protocol_c() -> None:
    seen = world()
    seen.kernel["web1-xvda"].disk = "Diskless"
    assert "protocol A instead of C" in problems(judge.status(seen))
    seen.settings["web1-xvda"].protocol = "C"
    text = problems(judge.status(seen))
    assert "instead of" not in text and "the volume here is Diskless" in text


def test_the_stories_are_read_only_where_there_is_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "STATE", str(tmp_path))
    asked: list[str] = []

    def ask(peer: str, name: str, timeout: float = 0) -> dict[str, object]:
        asked.append(name)
        raise PeerUnreachable("silent")

    monkeypatch.setattr(splitbrain, "ask_story", ask)
    monkeypatch.setattr(splitbrain, "story", lambda name, record: {"host": "alice"})
    seen = world()
    assert read._splits(seen) == {} and asked == []
    statefile.write(splitbrain.path("web1-xvdb"), {"resource": "web1-xvdb"})
    assert read._splits(seen) == {"web1-xvdb": ({"host": "alice"}, None)}


def test_debians_xendomains_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    seen = world()
    read._xendomains(seen)
    assert seen.notes == []
    (tmp_path / "etc/default").mkdir(parents=True)
    (tmp_path / "etc/default/xendomains").write_text("XENDOMAINS_SAVE=/var/lib/xen/save\n")
    read._xendomains(seen)
    assert seen.notes[0][0] == "warning" and "XENDOMAINS_RESTORE=false" in seen.notes[0][2]


def test_a_broken_file_beside_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "DRBD_D", str(tmp_path))
    seen = read.World("alice", records={"web1-xvda": {}}, vms={"web1": {}})
    for name in ("web1.res", "fine.res", "note.txt"):
        (tmp_path / name).write_text("resource x { }\n" if name == "fine.res" else "{")
    read._foreign_files(seen)
    assert seen.notes == []  # its own file is doctor's matter, and drbdadm reads no .txt
    (tmp_path / "old.res").write_text("resource old {\n  on alice {\n")
    read._foreign_files(seen)
    assert [(kind, "old.res" in what, "old.res" in do) for kind, what, do in seen.notes] == [
        ("warning", True, True)
    ]
