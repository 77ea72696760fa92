"""Boot: autostart follows the VM to where it last ran."""

import os
import time
from pathlib import Path

import pytest

from tests.unit.fakes.booting import Host, T, booting, there, times
from xenhelper import (
    autostart,
    create,
    handed,
    insync,
    intents,
    paths,
    statefile,
)
from xenhelper.errors import Refused
from xenhelper.run import Result
from xenhelper.xen import domains


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return booting(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("here", "peer", "what"),
    [
        (times(T, T + 9), there(), autostart.HERE),
        (times(T, T + 9), there(**times(T - 99, T - 9)), autostart.HERE),
        (times(T - 99, T - 9), there(**times(T, last_ran="bob")), autostart.THERE),
        # a migration's source lets go after the destination began, and knows where it went
        (times(T - 99, T + 9, last_ran="bob"), there(**times(T, last_ran="bob")), autostart.THERE),
        (times(T, last_ran="alice"), there(**times(T - 99, T + 9)), autostart.HERE),
        (times(T, T + 9), {"domains": ["web1"], "ran_at": ""}, autostart.RUNS),
        # moved cold within one second: who gave the disks out has it
        (times(T - 99, T), there(**times(T, last_ran="bob")), autostart.THERE),
        (times(T, T - 9), there(**times(T - 99, T, last_ran="bob")), autostart.HERE),
        # a start over there that fails yet: both wanted it, and neither would come back to it
        (times(T, T + 9), {"domains": ["web1"], "unsettled": True}, autostart.UNKNOWN),
        (times(T, T + 9), {"domains": ["web1"], "unsettled": False}, autostart.RUNS),
        (times(T, T + 9), None, autostart.HERE),  # the block script asks again
        (times(T, last_ran="bob"), None, autostart.UNKNOWN),
        ({"last_ran": "bob"}, there(), autostart.THERE),
        # both let go within one second, and each had only heard of the other: no ping-pong
        (times(T, T + 9, last_ran="bob"), there(**times(T, T + 9, last_ran="alice")), autostart.HERE),
        (times(T, T + 9, last_ran="alice"), there(**times(T, T + 9, last_ran="bob")), autostart.HERE),
        ({}, None, autostart.HERE),
    ],
)
def test_where_a_vm_belongs(here: dict[str, str], peer: dict[str, object] | None, what: str) -> None:
    assert autostart.decide("alice", "bob", here, peer)[0] == what


def test_a_start_that_failed_is_no_run() -> None:
    assert not autostart.ran_since(times(T - 1), T)
    assert autostart.ran_since(times(T + 1), T)  # it runs, or its host crashed
    assert autostart.ran_since(times(T + 1, T + 900), T)
    assert not autostart.ran_since(times(T + 5, T + 7), T)


def test_power_cut_and_bob_is_late(host: Host) -> None:
    """alice boots first: the start is tried, and done later when bob has spoken."""
    autostart.check("web1", "/etc/xen/auto/web1.cfg")  # tried: the block script will refuse
    assert autostart.wanted() == ["web1"]
    assert autostart.start_wanted() == [] and host.programs == []
    host.answers["last-ran"] = there()
    assert autostart.start_wanted() == []
    assert host.programs == [
        ["/usr/lib/xenhelper/xl", "create", "--quiet", "--defconfig", "/etc/xen/auto/web1.cfg"]
    ]
    assert autostart.wanted() == []


def test_it_runs_elsewhere(host: Host) -> None:
    host.answers["last-ran"] = {"domains": ["web1"]}
    with pytest.raises(Refused, match=r"isn't started here at boot: it runs on bob"):
        autostart.check("web1", "/etc/xen/auto/web1.cfg")
    assert autostart.wanted() == []


def test_it_last_ran_elsewhere_so_the_other_host_is_told(host: Host) -> None:
    host.answers["last-ran"] = there(**times(time.time() - 300, last_ran="bob"))
    with pytest.raises(Refused, match="last ran on bob"):
        autostart.check("web1", "/etc/xen/auto/web1.cfg")
    assert autostart.wanted() == ["web1"]
    assert autostart.start_wanted() == ["web1: bob gave no answer"] or autostart.wanted() == ["web1"]
    host.answers["autostart"] = {"starts": True}
    assert autostart.start_wanted() == []
    assert host.programs == [] and autostart.wanted() == []


def test_told_by_the_other_host_only_a_host_that_booted_starts_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = time.time() - 300
    statefile.write(
        f"{paths.VMS}/web1", {"vm": "web1", "peer": "bob", "config": "/c", **times(ran, ran + 99)}
    )
    monkeypatch.setattr(autostart, "_booted_at", lambda: ran - 999)
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": False}  # stopped on purpose
    monkeypatch.setattr(autostart, "_booted_at", lambda: ran + 200)
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": True}
    assert autostart.wanted() == ["web1"]
    with pytest.raises(Refused):
        autostart.serve_autostart("carol", {"vm": "web1"})


def test_what_was_handed_over_and_let_go_by_nobody_went_there(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source's `remove` was killed, and the destination died at once: it starts it."""
    started = time.time() - 300
    monkeypatch.setattr(autostart, "_booted_at", lambda: started - 999)
    path = f"{paths.VMS}/web1"
    statefile.write(path, {"vm": "web1", "peer": "bob", "config": "/c", **times(started)})
    handed.note("web1", "bob", insync.stamp(started + 200))
    host.running = [domains.Domain(3, "web1--migratedaway", "---ss-", "0")]
    assert autostart.serve_last_ran("bob", {"vm": "web1"})["last_ran"] == "alice"  # not over yet
    host.running = []
    with pytest.raises(Refused, match="migrated to bob"):
        autostart.serve_autostart("bob", {"vm": "web1"})
    assert autostart.serve_last_ran("bob", {"vm": "web1"}) == there(
        unsettled=False, **times(started, started + 200, last_ran="bob")
    )
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": False}  # said once


def test_what_runs_here_after_all_was_not_handed_over(host: Host) -> None:
    handed.note("web1", "bob", insync.stamp(T))
    autostart.ran_here("web1")
    assert not handed.settle("web1")


def test_a_start_that_was_refused_a_disk_is_no_run(host: Host) -> None:
    """One disk was given out, the other refused, and the `remove` of the first never came."""
    now = time.time()
    statefile.write(
        f"{paths.VMS}/web1",
        {"vm": "web1", "peer": "bob", "resources": "web1-xvda,web1-xvdb"}
        | times(now - 20, last_ran=os.uname().nodename),
    )
    autostart.want("web1", "/c")
    statefile.write(f"{paths.RUN}/refused/web1-xvdb", {"vm": "web1", "domid": "1"})
    host.answers["last-ran"] = there(**times(now - 90))
    assert autostart.start_wanted() == [] and len(host.programs) == 1


def test_a_refused_start_says_nothing_of_a_run_that_came_by_migration(host: Host) -> None:
    """Refused a disk here once, migrated here, then stopped on purpose: it stays stopped."""
    now = time.time()
    record = {"vm": "web1", "peer": "bob", "resources": "web1-xvda,web1-xvdb"}
    statefile.write(f"{paths.VMS}/web1", record | times(now - 300, now - 200))
    statefile.write(f"{paths.RUN}/refused/web1-xvdb", {"vm": "web1", "domid": "1"})
    autostart.ran_here("web1")
    assert autostart.serve_autostart("bob", {"vm": "web1"}) == {"starts": False}


@pytest.mark.parametrize("state", ["--p---", "--ps--", "---s-d"])
def test_a_half_made_domain_is_no_run(host: Host, state: str) -> None:
    """An `add` failed, and the domain is being destroyed again: it stays wanted."""
    autostart.want("web1", "/c")
    host.answers["last-ran"] = there()
    host.running = [domains.Domain(4, "web1", state, "0")]
    assert autostart.start_wanted() == [] and autostart.wanted() == ["web1"]
    host.running = []
    assert autostart.start_wanted() == [] and autostart.wanted() == []
    assert len(host.programs) == 1


def test_a_start_that_goes_on_failing_is_given_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(argv: list[str], **_: object) -> Result:
        raise Refused("no memory")

    monkeypatch.setattr(autostart, "run", fails)
    host.answers["last-ran"] = there()
    autostart.want("web1", "/c")
    lines = [autostart.start_wanted() for _ in range(4)]
    assert [len(line) for line in lines] == [1, 1, 1, 0] and "given up" in lines[2][0]


def test_what_a_person_started_and_stopped_meanwhile_stays_stopped(host: Host) -> None:
    autostart.want("web1", "/c")
    host.answers["last-ran"] = there()
    now = time.time()
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", "peer": "bob", **times(now - 100, now)})
    assert autostart.start_wanted() == [] and host.programs == [] and autostart.wanted() == []


@pytest.mark.parametrize(("ago", "counts"), [(20, False), (600, True)])
def test_a_start_whose_scripts_were_killed_is_no_run(host: Host, ago: float, counts: bool) -> None:
    """The soak's seed 8077843: neither `add` of one disk nor `remove` of the other came to its end."""
    record = statefile.read(f"{paths.VMS}/web1") or {}
    statefile.write(f"{paths.VMS}/web1", {**record, "ran_at": insync.stamp(time.time() - ago)})
    autostart.let_go("web1", "web1-xvda")
    assert autostart._ran_this_boot(statefile.read(f"{paths.VMS}/web1") or {}) is counts


def test_who_is_at_its_start_is_left_alone(host: Host) -> None:
    """A hook of libvirt's has given out one disk and waits for the next; there is no domain yet,
    and the record looks as if it had run."""
    autostart.want("web1", "/c")
    host.answers["last-ran"] = there()
    statefile.write(f"{paths.VMS}/web1", {"vm": "web1", "peer": "bob", **times(time.time())})
    at_work = intents.lock("web1", who="libvirt's start")
    assert autostart.start_wanted() == [] and autostart.wanted() == ["web1"] and host.asked == []
    os.close(at_work)
    assert autostart.start_wanted() == [] and autostart.wanted() == []


def test_xendomains_is_known_by_its_parent() -> None:
    assert not autostart.by_xendomains() and not create._by_xendomains()


@pytest.mark.parametrize(
    ("states", "unsettled"),
    [(["--p---"], True), (["-b----"], False), (["--p---", "r-----"], False), (["-----d"], True), ([], False)],
)
def test_a_domain_that_may_not_come_to_anything_is_told_apart(
    host: Host, states: list[str], unsettled: bool
) -> None:
    host.running = [domains.Domain(3 + n, "web1", state, "0") for n, state in enumerate(states)]
    assert autostart.serve_last_ran("bob", {"vm": "web1"})["unsettled"] is unsettled


def test_a_vm_that_the_reconciler_starts_outlives_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    assert autostart._unit_of_its_own() == []  # no systemd: xl alone
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    argv = autostart._unit_of_its_own()
    assert argv[0] == "systemd-run" and argv[-1] == "--"
    assert {"--wait", "--pipe", "--property=KillMode=process"} <= set(argv)
