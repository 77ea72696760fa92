"""status: the contract's JSON from real tools' output, and what each bad state says."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xenhelper import beneath, intents, paths, statefile
from xenhelper.cli import main
from xenhelper.drbd import events, proc, show
from xenhelper.errors import CommandFailed, ConfigError, PeerUnreachable
from xenhelper.peer import client
from xenhelper.status import judge, read, text
from xenhelper.status.read import Domain, World
from xenhelper.xen import domains

CAPTURED = Path(__file__).parent / "captured"
UUID = "11111111-2222-3333-4444-555555555555"


def record(vdev: str, number: int) -> dict[str, str]:
    volume = {"xvda": "web1-root", "xvdb": "web1-swap"}[vdev]
    return {
        "resource": f"web1-{vdev}",
        "vm": "web1",
        "vdev": vdev,
        "minor": str(1000 + number),
        "port": str(7800 + number),
        "volume": f"/dev/vg0/{volume}",
        "meta": f"/dev/vg0/{volume}_xhmeta",
        "host": "alice",
        "peer": "bob",
        "size_bytes": str(64 << 20),
        "protocol": "A",
    }


def world(state: str = "connected-idle", shown: str = "protocol-a", **more: Any) -> World:
    return World(
        host="alice",
        records={f"web1-{vdev}": record(vdev, number) for number, vdev in enumerate(("xvda", "xvdb"))},
        vms={"web1": {"vm": "web1"}},
        kernel=events.parse((CAPTURED / f"events2-now-statistics-{state}-alice.txt").read_text()),
        settings=show.parse((CAPTURED / f"drbdsetup-show-{shown}-alice.txt").read_text()),
        domains=[Domain("web1", UUID)],
        peers={"bob": []},
        **more,
    )


def problems(answer: dict[str, Any]) -> str:
    return "\n".join(f"{p['severity']}: {p['what']}; {p['do']}" for p in answer["problems"])


def test_a_healthy_vm_is_the_contract_to_the_letter() -> None:
    answer = judge.status(world())
    for disk in answer["vms"][0]["disks"]:
        # further keys may come, none of the contract's may change or go
        for key in [key for key in disk if key.startswith("activity") or key in ("last_verify", "peer_view")]:
            assert disk.pop(key) is None, key
    assert answer == {
        "host": "alice",
        "vms": [
            {
                "name": "web1",
                "uuid": UUID,
                "runs_on": "alice",
                "migrating_to": None,
                "disks": [
                    {
                        "vdev": vdev,
                        "resource": f"web1-{vdev}",
                        "minor": 1000 + number,
                        "port": 7800 + number,
                        "volume": volume,
                        "size_bytes": 64 << 20,
                        "peer": "bob",
                        "connection": "Connected",
                        "role": "Primary",
                        "peer_role": "Secondary",
                        "disk_state": "UpToDate",
                        "peer_disk_state": "UpToDate",
                        "protocol": "A",
                        "two_primaries": False,
                        "sync_percent": 100.0,
                        "out_of_sync_bytes": 0,
                    }
                    for number, (vdev, volume) in enumerate(
                        [("xvda", "/dev/vg0/web1-root"), ("xvdb", "/dev/vg0/web1-swap")]
                    )
                ],
            }
        ],
        "intents": [],
        "problems": [],
    }
    assert judge.exit_code(answer) == 0


def test_a_first_sync_is_told_as_missing_redundancy() -> None:
    syncing = world("syncing")
    del syncing.records["web1-xvdb"]
    answer = judge.status(syncing)
    disk = answer["vms"][0]["disks"][0]
    assert disk["out_of_sync_bytes"] == 64320 * 1024
    assert 0 < disk["sync_percent"] < 100
    assert "warning: web1 xvda: syncs from here" in problems(answer)
    assert judge.exit_code(answer) == 4


def test_a_cut_link_degrades() -> None:
    answer = judge.status(world("disconnected-guest-writing"))
    assert "warning: web1 xvda: no replication: bob is" in problems(answer)
    assert answer["vms"][0]["disks"][0]["sync_percent"] < 100
    assert judge.exit_code(answer) == 4


def test_a_window_left_open_is_an_error_unless_a_migration_has_it() -> None:
    answer = judge.status(world("both-primary", "both-primary"))
    said = problems(answer)
    assert "critical: web1 xvda: both hosts are Primary" in said
    assert "error: web1 xvda: two Primaries are allowed" in said
    assert "warning: web1 xvda: protocol C instead of A" in said
    assert judge.exit_code(answer) == 5
    window = {"kind": "window", "vm": "web1", "since": "x", "source": "alice", "destination": "bob"}
    answer = judge.status(world("both-primary", "both-primary", intents=[window], working={"web1"}))
    assert answer["problems"] == []
    assert answer["vms"][0]["migrating_to"] == "bob"
    assert answer["intents"] == [{**window, "working": True}]


def test_an_interrupted_change_says_what_mends_it() -> None:
    intent = {"kind": "replicate", "vm": "new", "since": "2026-01-01T00:00:00Z", "plan": "secret"}
    answer = judge.status(world(intents=[intent]))
    assert answer["intents"] == [
        {"kind": "replicate", "vm": "new", "since": "2026-01-01T00:00:00Z", "working": False}
    ]
    assert "interrupted; `xenhelper reconcile`" in problems(answer)


def test_a_resource_that_is_down_and_one_that_stands_alone() -> None:
    down = world()
    down.kernel.clear()
    down.settings.clear()
    answer = judge.status(down)
    assert answer["vms"][0]["disks"][0]["connection"] == "Unconfigured"
    assert answer["vms"][0]["disks"][0]["sync_percent"] is None
    assert "resource web1-xvda isn't up" in problems(answer)
    alone = world()
    alone.kernel["web1-xvda"].connection = "StandAlone"
    shown = (CAPTURED / "drbdsetup-show-disconnected-alice.txt").read_text()
    alone.settings = show.parse(re.sub(r"    (net|_remote_host) \{.*?\n    \}\n", "", shown, flags=re.DOTALL))
    assert alone.settings["web1-xvda"].protocol == "C"
    answer = judge.status(alone)
    assert "`xenhelper reconcile` connects it" in problems(answer)
    # drbdsetup prints no connection then, so no protocol either; that isn't protocol C
    assert answer["vms"][0]["disks"][0]["protocol"] == "A" and "instead of" not in problems(answer)


def test_where_a_vm_runs_is_what_either_host_says() -> None:
    there = replace(world(), domains=[], peers={"bob": [Domain("web1", "u2")]})
    vm = judge.status(there)["vms"][0]
    assert (vm["runs_on"], vm["uuid"]) == ("bob", "u2")
    nowhere = judge.status(replace(world(), domains=[]))["vms"][0]
    assert (nowhere["runs_on"], nowhere["uuid"]) == (None, None)
    silent = judge.status(replace(world(), peers={"bob": None}))
    assert silent["vms"][0]["runs_on"] == "alice"
    assert "bob didn't answer" in problems(silent)
    both = judge.status(replace(world(), peers={"bob": [Domain("web1", "u2")]}))
    assert "web1 is on alice and bob at once" in problems(both)


def test_a_disk_in_use_under_another_name_is_told_of() -> None:
    """xl rename: nothing else would say why the VM is nowhere and can't be created."""
    renamed = judge.status(replace(world(), domains=[Domain("shop", UUID)]))
    assert renamed["vms"][0]["runs_on"] is None
    assert "web1-xvda is in use on alice, and no domain there is called web1" in problems(renamed)
    assert "`xl rename NAME web1` on alice" in problems(renamed)
    vms = {"web1": {"vm": "web1", "config": "libvirt:web1"}}
    virt = judge.status(replace(world(), domains=[], vms=vms))
    assert "`virsh -c xen:///system list --all` on alice" in problems(virt)
    held = judge.status(
        replace(world(), domains=[], holders=dict.fromkeys(("web1-xvda", "web1-xvdb"), "sleep (pid 7)"))
    )
    assert "web1-xvda is in use on alice by sleep (pid 7), and no domain" in problems(held)
    assert "xl rename" not in problems(held)
    assert "called web1" not in problems(judge.status(replace(world(), domains=None))), "not known"
    elsewhere = world()
    elsewhere.kernel["web1-xvda"].role, elsewhere.kernel["web1-xvda"].peer_role = "Secondary", "Primary"
    away = replace(elsewhere, domains=[], peers={"bob": [Domain("shop", UUID)]})
    assert "web1-xvda is in use on bob" in problems(judge.status(away))


def test_in_the_middle_of_a_migration_it_runs_at_the_source() -> None:
    window = {"kind": "window", "vm": "web1", "source": "alice", "destination": "bob"}
    middle = world(intents=[window], working={"web1"})
    middle.peers["bob"] = [Domain("web1--incoming", UUID)]
    assert judge.status(middle)["vms"][0]["runs_on"] == "alice"


def test_only_the_named_vms() -> None:
    assert judge.status(world(), ["other"])["vms"] == []
    assert len(judge.status(world(), ["web1"])["vms"]) == 1


def test_the_text_is_by_vm_and_shows_what_to_do() -> None:
    shown = text.render(judge.status(world("syncing")))
    assert shown.splitlines()[0] == "web1  on alice"
    assert "xvda  /dev/vg0/web1-root" in shown and "in sync" in shown
    assert text.render(judge.status(World("alice"))) == "no VM is replicated on this host"


def test_the_pair_is_told_where_there_is_more_than_one() -> None:
    answer = judge.status(world())
    assert text.render(answer).splitlines()[0] == "web1  on alice"
    disk = {**answer["vms"][0]["disks"][0], "peer": "carol"}
    answer["vms"].append({**answer["vms"][0], "name": "web2", "disks": [disk]})
    shown = text.render(answer).splitlines()
    assert "web1  on alice; replicated with bob" in shown and "web2  on alice; replicated with carol" in shown


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RESOURCES", "VMS", "INTENTS", "LOCKS", "RUN", "CONFIG"):
        monkeypatch.setattr(paths, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(events, "snapshot", lambda: world().kernel)
    monkeypatch.setattr(show, "settings", lambda: world().settings)
    monkeypatch.setattr(beneath, "scan", list)
    monkeypatch.setattr(domains, "listing", list)
    return tmp_path


def test_a_host_with_nothing_answers(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "xenhelper.config.load", lambda: (_ for _ in ()).throw(ConfigError("c is missing", "setup"))
    )
    answer = judge.status(read.world())
    assert answer["vms"] == []
    assert problems(answer) == "error: c is missing; setup"


def test_whatever_fails_becomes_a_problem(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statefile.write(f"{paths.RESOURCES}/web1-xvda", record("xvda", 0))
    intents.write("window", "web1", source="alice", destination="bob")

    def fail(*_: Any, **__: Any) -> Any:
        raise CommandFailed(["drbdsetup"], 1, "no such module", 1)

    def silent(*_: Any, **__: Any) -> Any:
        raise PeerUnreachable("bob can't be asked")

    for module, name in ((events, "snapshot"), (show, "settings"), (domains, "listing"), (beneath, "scan")):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(client, "ask", silent)
    answer = judge.status(read.world())
    said = problems(answer)
    assert answer["vms"][0]["name"] == "web1"
    assert "no such module" in said and "bob didn't answer" in said


@pytest.mark.parametrize(
    ("state", "shown", "asked"), [("connected-idle", "protocol-a", 0), ("both-primary", "both-primary", 1)]
)
def test_drbdsetup_show_is_asked_only_where_two_primaries_may_be_allowed(
    host: Path, monkeypatch: pytest.MonkeyPatch, state: str, shown: str, asked: int
) -> None:
    calls = []
    for number, vdev in enumerate(("xvda", "xvdb")):
        statefile.write(f"{paths.RESOURCES}/web1-{vdev}", record(vdev, number))
    wanted = world(state, shown)
    monkeypatch.setattr(events, "snapshot", lambda: world(state).kernel)
    monkeypatch.setattr(show, "settings", lambda: calls.append(1) or wanted.settings)
    monkeypatch.setattr(proc, "text", (CAPTURED / f"proc-drbd-{state}-alice.txt").read_text)
    monkeypatch.setattr(beneath, "scan", lambda records: [])

    def told(seen: World) -> list[list[Any]]:
        keys = ("resource", "protocol", "two_primaries", "role", "peer_role")
        return [[disk[key] for key in keys] for disk in judge.status(seen)["vms"][0]["disks"]]

    assert told(read.world()) == told(wanted)
    assert len(calls) == asked


def test_an_unknown_vm_fails(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "ROOT", str(host))
    assert main.main(["status", "web9"]) == 1
    assert "web9: not replicated" in capsys.readouterr().err


def test_usage_errors_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert main.main(["nonsense"]) == 2
    assert "no command 'nonsense'" in capsys.readouterr().err
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "  setup " in shown and "setup-half" not in shown and "resources-up" not in shown
    with pytest.raises(SystemExit) as ended:
        main.main(["status", "--nonsense"])
    assert ended.value.code == 2
