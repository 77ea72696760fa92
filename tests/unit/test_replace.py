"""The second copy moves to another host: carol takes bob's place, dead or alive, and bob's old
half never comes back into service by itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import hosts
from tests.unit.fakes.hosts import GIB, World
from xenhelper import moved, rehome

NAMES = ("web1-xvda", "web1-xvdb")
STATE = "var/lib/xenhelper"
MOVE = ("cli", "replicate", "web1", "--peer", "carol")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """web1 runs on alice and is replicated with bob; carol is there as well."""
    made = hosts.replicated(tmp_path / "world", ("alice", "bob", "carol"))
    runs(made, "alice")
    made.reset_calls()
    return made


def runs(world: World, host: str) -> None:
    (world.folder / f"{host}.domains").write_text("web1")
    for name in NAMES:
        world.kernel("primary", str(world.drbd(host)[name]["minor"]), host=host)


def record(world: World, host: str, name: str = "web1-xvda") -> dict[str, str]:
    text = world.read(host, f"{STATE}/resources/{name}")
    return dict(line.split("=", 1) for line in text.splitlines())


def names(world: World, host: str, folder: str) -> list[str]:
    path = world.folder / host / STATE / folder
    return sorted(item.name for item in path.iterdir()) if path.is_dir() else []


def check_moved(world: World) -> None:
    """The pair is alice and carol, whole, in sync, on numbers of its own."""
    before = {7800, 7801}
    for host, peer in (("alice", "carol"), ("carol", "alice")):
        assert names(world, host, "intents") == []
        for name in NAMES:
            found = record(world, host, name)
            assert (found["host"], found["peer"]) == (host, peer)
            up = world.drbd(host)[name]
            assert up["disk"] == "UpToDate" and up["port"] == int(found["port"]) not in before
            assert up["role"] == ("Primary" if host == "alice" else "Secondary")
            tags = world.volumes(host)[found["volume"].removeprefix("/dev/")]["tags"]
            assert [tag for tag in tags if "port" in tag] == [f"xenhelper.port={found['port']}"]
        assert names(world, host, "moved") == ["web1@bob"]
        vm = dict(line.split("=", 1) for line in world.read(host, f"{STATE}/vms/web1").splitlines())
        assert vm["peer"] == peer and vm["last_ran"] == "alice"
    assert world.read("alice", "etc/drbd.d/web1.res") == world.read("carol", "etc/drbd.d/web1.res")
    assert world.read("alice", "etc/xen/web1.cfg") == world.read("carol", "etc/xen/web1.cfg")
    assert "alice and carol" in world.read("alice", "etc/xen/web1.cfg")
    assert world.volumes("carol")["vg0/web1"]["size"] == 2 * GIB
    assert not (world.folder / "alice" / STATE / "res-before/web1").exists()


def check_as_before(world: World) -> None:
    for host, peer in (("alice", "bob"), ("bob", "alice")):
        assert names(world, host, "intents") == [] and names(world, host, "moved") == []
        assert names(world, host, "shelf") == []
        for name in NAMES:
            assert record(world, host, name)["peer"] == peer
            assert world.drbd(host)[name]["disk"] == "UpToDate"
    assert world.drbd("carol") == {} and world.volumes("carol") == {}
    assert names(world, "carol", "intents") == [] and names(world, "carol", "resources") == []
    assert not (world.folder / "carol/etc/drbd.d/web1.res").exists()


def check_shelved(world: World) -> None:
    """bob has its volumes, and nothing that could use them."""
    assert world.drbd("bob") == {} and names(world, "bob", "resources") == []
    assert not (world.folder / "bob/etc/drbd.d/web1.res").exists()
    assert not (world.folder / "bob/etc/xen/web1.cfg").exists()
    assert {tag for volume in world.volumes("bob").values() for tag in volume["tags"]} == {
        "xenhelper.left-over=web1"
    }
    assert set(world.volumes("bob")) == {"vg0/web1", "vg0/web1_xhmeta", "vg0/web1-b", "vg0/web1-b_xhmeta"}


def tags(world: World, host: str) -> dict[str, set[str]]:
    """By volume; not that of the run that made it, which nobody needs once it is through."""
    return {
        name: {tag for tag in volume["tags"] if not tag.startswith("xenhelper.run=")}
        for name, volume in world.volumes(host).items()
    }


def everything(world: World) -> dict[str, Any]:
    every = ("alice", "bob", "carol")
    files = {
        host: {name: text for name, text in world.files(host).items() if not name.endswith("xenhelper.conf")}
        for host in every
    }
    return {host: (world.volumes(host), world.drbd(host), files[host]) for host in every}


def test_a_living_host_is_relieved_while_the_guest_runs(world: World) -> None:
    before = everything(world)
    dry = world.run("alice", *MOVE, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would make web1-xvda: /dev/vg0/web1 of 2.0 GiB on carol and fill it from here" in dry.stdout
    assert "would leave bob's copy as it is, out of service" in dry.stdout
    assert everything(world) == before
    old = record(world, "alice")
    done = world.run("alice", *MOVE)
    assert done.returncode == 0, done.stderr
    check_moved(world)
    check_shelved(world)
    new = record(world, "alice")
    assert (
        new["secret"] != old["secret"] and new["minor"] == old["minor"] and new["created"] == old["created"]
    )
    again = world.run("alice", *MOVE)
    assert again.returncode == 0 and "web1 is replicated with carol" in again.stdout
    check_moved(world)


def test_bobs_left_over_is_told_refused_and_removed(world: World) -> None:
    assert world.run("alice", *MOVE).returncode == 0
    status = world.run("bob", "cli", "status", "--json")
    told = [problem for problem in json.loads(status.stdout)["problems"] if "left of web1" in problem["what"]]
    assert told and "alice and carol have it" in told[0]["what"]
    assert "`xenhelper forget web1 --left-over`" in told[0]["do"]
    # a config that somebody kept starts no old copy
    world.write("bob", "etc/xen/kept.cfg", "name='web1'\ndisk=['phy:/dev/vg0/web1,xvda,w']\n")
    refused = world.run("bob", "create", "/etc/xen/kept.cfg")
    assert refused.returncode == 3 and "an old copy of a disk of web1" in refused.stderr
    # nor is it a place for another copy before it is gone
    back = world.run("alice", "cli", "replicate", "web1", "--peer", "bob")
    assert back.returncode == 3 and "bob keeps what is left of an old copy of web1" in back.stderr
    dry = world.run("bob", "cli", "forget", "web1", "--left-over", "--dry-run")
    assert "would remove /dev/vg0/web1\n" in dry.stdout and "vg0/web1" in world.volumes("bob")
    gone = world.run("bob", "cli", "forget", "web1", "--left-over")
    assert gone.returncode == 0, gone.stderr
    assert world.volumes("bob") == {}
    left = (world.folder / f"bob/{STATE}").rglob("*web1*")
    assert [path for path in left if path.is_file()] == []
    for host in ("alice", "carol"):
        assert names(world, host, "moved") == []
    back = world.run("alice", "cli", "replicate", "web1", "--peer", "bob")
    assert back.returncode == 0, back.stderr
    assert record(world, "bob")["peer"] == "alice" and world.drbd("carol") == {}


def test_the_old_copy_stays_while_nobody_has_a_good_one(world: World) -> None:
    assert world.run("alice", *MOVE).returncode == 0
    for host in ("alice", "carol"):
        (world.folder / f"{host}.off").touch()
    refused = world.run("bob", "cli", "forget", "web1", "--left-over")
    assert refused.returncode == 3 and "may be the best that there is" in refused.stderr
    check_shelved(world)


def test_the_old_copy_is_the_last_one(world: World) -> None:
    assert world.run("alice", *MOVE).returncode == 0
    command = ("cli", "takeover", "web1", "--left-over", "--accept-data-as-of", "1970-01-01T00:00:00Z")
    lives = world.run("bob", *command, "--peer-is-dead")
    assert lives.returncode == 3 and "alice has it, and isn't dead: it answers ping" in lives.stderr
    world.power_off("alice")
    world.power_off("carol")
    word = world.run("bob", *command)
    assert word.returncode == 3 and "nothing proves that alice and carol are dead" in word.stderr
    check_shelved(world)
    done = world.run("bob", *command, "--peer-is-dead")
    assert done.returncode == 0, done.stderr
    assert "put the old copy of web1 into service again" in done.stdout
    assert set(world.drbd("bob")) == set(NAMES) and names(world, "bob", "shelf") == []
    assert sorted(path.name for path in (world.folder / "bob/run/xenhelper/permits").iterdir()) == list(NAMES)
    # a person has said so: what the others say when they are back is for a person, too
    for host in ("alice", "carol"):
        (world.folder / f"{host}.off").unlink()
    assert world.run("bob", "look").returncode == 0
    assert set(world.drbd("bob")) == set(NAMES)


def test_a_dead_host_is_replaced_and_told_when_it_returns(world: World) -> None:
    started = world.folder / "alice/etc/xen/auto"
    started.mkdir()
    (started / "web1.cfg").symlink_to("/etc/xen/web1.cfg")
    world.power_off("bob")
    done = world.run("alice", *MOVE)
    assert done.returncode == 0, done.stderr
    assert "left bob's copy as it is, as bob doesn't answer" in done.stdout
    check_moved(world)
    # carol hasn't even the folder
    assert (world.folder / "carol/etc/xen/auto/web1.cfg").readlink() == Path("/etc/xen/web1.cfg")
    world.power_on("bob")
    assert set(world.drbd("bob")) == set(NAMES)  # up, and alone: its port and secret are nobody's
    assert "WFConnection" in world.read("bob", "proc/drbd")
    looked = world.run("bob", "look")
    assert looked.returncode == 0 and looked.stdout.strip() == "", looked.stderr
    check_shelved(world)
    check_moved(world)
    # it is told by either of the new pair
    assert world.run("bob", "look").stdout.strip() == ""


def test_a_returned_half_that_is_in_use_is_told_and_left(world: World) -> None:
    world.power_off("bob")
    assert world.run("alice", *MOVE).returncode == 0
    world.power_on("bob")
    (world.folder / "bob.domains").write_text("web1")
    looked = world.run("bob", "look")
    assert "web1 was moved to alice and carol meanwhile, and is in use here" in looked.stdout
    assert set(world.drbd("bob")) == set(NAMES)
    refused = world.run("bob", "cli", "takeover", "web1", "--peer-is-dead")
    assert refused.returncode == 3 and "alice and carol have it now" in refused.stderr


def test_an_old_ports_number_is_given_to_nobody(world: World) -> None:
    world.power_off("bob")
    old = {record(world, "alice", name)["port"] for name in NAMES}
    assert world.run("alice", *MOVE).returncode == 0
    world.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web2": GIB})
    world.write("alice", "etc/xen/web2.cfg", "name='web2'\ndisk=['phy:/dev/vg0/web2,xvda,w']\n")
    done = world.run("alice", "cli", "replicate", "/etc/xen/web2.cfg", "--peer", "carol")
    assert done.returncode == 0, done.stderr
    assert record(world, "alice", "web2-xvda")["port"] not in old


def refusals() -> list[Any]:
    return [
        pytest.param("unknown", 2, "dave is no peer", id="unknown host"),
        pytest.param("runs on bob", 3, "web1 runs on bob", id="runs there"),
        pytest.param("stale", 3, "the copy on this host is Inconsistent", id="not good here"),
        pytest.param("alone", 3, "bob doesn't answer", id="not the newest"),
        pytest.param("full", 3, "volume group vg0 on carol has", id="no room"),
        pytest.param("volume", 3, "carol has a volume /dev/vg0/web1 already", id="in the way"),
        pytest.param("minor", 3, "with its minor 1000", id="minor"),
        pytest.param("carol off", 1, "carol gave no answer", id="new host silent"),
        pytest.param("intent", 3, "a grow isn't finished", id="other change"),
    ]


@pytest.mark.parametrize(("case", "status", "words"), refusals())
def test_each_refusal_leaves_all_as_it_was(world: World, case: str, status: int, words: str) -> None:
    command = list(MOVE)
    if case == "unknown":
        command[-1] = "dave"
    elif case == "runs on bob":
        for name in NAMES:
            world.kernel("secondary", str(world.drbd("alice")[name]["minor"]))
        (world.folder / "alice.domains").unlink()
        runs(world, "bob")
    elif case == "stale":
        path = world.folder / "drbd.json"
        state = json.loads(path.read_text())
        state["alice"]["web1-xvda"]["disk"] = "Inconsistent"
        path.write_text(json.dumps(state))
    elif case == "alone":
        for name in NAMES:
            world.kernel("secondary", str(world.drbd("alice")[name]["minor"]))
        world.power_off("bob")
    elif case == "full":
        world.lvm("carol", {"vg0": GIB}, {})
    elif case == "volume":
        world.lvm("carol", {"vg0": 16 * GIB}, {"vg0/web1": GIB})
    elif case == "minor":
        proc = world.read("carol", "proc/drbd")
        world.write("carol", "proc/drbd", proc + "1000: cs:Connected ro:Secondary/Primary ds:a/b A r-----\n")
    elif case == "carol off":
        (world.folder / "carol.off").touch()
    elif case == "intent":
        world.write("alice", f"{STATE}/intents/grow-web1", "kind=grow\nvm=web1\n")
    before = everything(world)
    refused = world.run("alice", *command)
    assert refused.returncode == status and words in refused.stderr, refused.stderr
    assert everything(world) == before


def test_a_failure_before_the_new_copy_connects_gives_all_back(world: World) -> None:
    (world.folder / "apart").touch()  # carol's resources come up, and don't connect
    before = {host: tags(world, host) for host in ("alice", "bob", "carol")}
    config = world.read("bob", "etc/xen/web1.cfg")
    failed = world.run("alice", *MOVE)
    assert failed.returncode == 1 and "doesn't connect to carol" in failed.stderr, failed.stderr
    (world.folder / "apart").unlink()
    world.kernel("refresh")
    check_as_before(world)
    assert {host: tags(world, host) for host in before} == before
    assert world.read("bob", "etc/xen/web1.cfg") == config == world.read("alice", "etc/xen/web1.cfg")
    # bob's metadata is what it was: DRBD copies what changed meanwhile, no more
    assert "create-md" not in "".join(
        line for line in (world.folder / "log").read_text().splitlines() if " bob " in line
    )


@pytest.mark.parametrize(
    "step",
    [
        "_undo:statefile.write_atomically",
        "_undo:bringup.up 2",
        "_undo:statefile.remove",
        "_undone:intents.remove",
    ],
    ids=lambda step: step.replace(" ", "."),
)
def test_the_way_back_cut_short_is_gone_on_with(world: World, step: str) -> None:
    for order, command in (("_switch:bringup.up 2", MOVE), (step, ("recover", "web1"))):
        armed = world.write("alice", "run/xenhelper/crash-at", f"before rehome:{order}\n")
        armed.chmod(0o600)
        assert world.run("alice", *command).returncode == -9 and not armed.exists()
        assert "replace-web1" in names(world, "alice", "intents")
    recovered = world.run("alice", "recover", "web1")
    assert recovered.returncode == 0, recovered.stderr
    check_as_before(world)


def cut(world: World, dead: bool) -> int:
    """How many steps a whole move takes."""
    if dead:
        world.power_off("bob")
    world.reset_calls()
    assert world.run("alice", *MOVE).returncode == 0
    return world.calls()


@pytest.mark.parametrize("dead", [False, True], ids=["bob lives", "bob is dead"])
@pytest.mark.parametrize(
    ("part", "fault"),
    [(0.3, "kill"), (0.5, "kill"), (0.6, "fail"), (0.7, "kill"), (0.8, "kill"), (0.95, "kill")],
)
def test_cut_short_it_is_finished_or_undone(tmp_path: Path, dead: bool, part: float, fault: str) -> None:
    every = ("alice", "bob", "carol")
    counted = hosts.replicated(tmp_path / "counted", every)
    runs(counted, "alice")
    total = cut(counted, dead)
    world = hosts.replicated(tmp_path / "world", every)
    runs(world, "alice")
    if dead:
        world.power_off("bob")
    world.reset_calls()
    world.fault(f"{max(1, int(total * part))} {fault}")
    world.run("alice", *MOVE)
    world.reset_calls()
    for _ in range(3):
        for host in every if not dead else ("alice", "carol"):
            world.run(host, "recover", "web1")
            world.run(host, "look")
    for host in ("alice", "carol"):
        assert names(world, host, "intents") == [], host
    again = world.run("alice", *MOVE)
    assert again.returncode == 0, again.stderr
    check_moved(world)
    if dead:
        world.power_on("bob")
        world.run("bob", "look")
    check_shelved(world)


def test_a_note_is_of_one_half_only() -> None:
    first, later = {"secret": "1" * 32, "port": "7800"}, {"secret": "2" * 32, "port": "7800"}
    note = moved.half([first])
    assert moved.fits(note, [first]) and not moved.fits(note, [later]) and not moved.fits(note, [])
    assert not moved.fits(note, [first, later])


@pytest.mark.parametrize(
    ("before", "now", "untouched"),
    [
        ((8, 0, 4, 2), (8, 0, 4, 2), True),
        ((8, 0, 4, 2), (16, 8, 4, 2), True),  # a Primary's own generation, nobody else was there
        ((16, 8, 4, 2), (16, 8, 4, 2), True),
        ((16, 8, 4, 2), (16, 99, 8, 4), False),  # a resync to the new host runs
        ((8, 0, 4, 2), (8, 99, 4, 2), False),
        ((8, 0, 4, 2), (8, 0, 99, 4), False),  # and is through
        ((8, 0, 4, 2), (16, 0, 8, 4), False),
        ((), (8, 0, 4, 2), False),
    ],
)
def test_whether_anybody_else_was_connected(
    before: tuple[int, ...], now: tuple[int, ...], untouched: bool
) -> None:
    assert rehome.untouched(before, now) is untouched
