"""Create as a whole story, on two hosts of fake tools (fakes/hosts.py)."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.hosts import GIB, World
from tests.unit.fakes.web1 import DISKS, WEB1, check_complete, config_of, records, state, web1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return web1(tmp_path / "world")


def test_first_create_does_everything_and_the_second_nothing(world: World) -> None:
    data = world.folder / "alice/dev/vg0/web1-root"
    with data.open("r+b") as file:
        file.write(b"precious" * 4096)
    before = data.stat().st_mtime_ns

    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["create", config_of(world)]
    check_complete(world)
    assert data.stat().st_mtime_ns == before, "the data volume was opened for writing"
    text = world.read("alice", "etc/xen/web1.cfg")
    assert text.startswith(WEB1)
    assert "vdev=xvda,script=block-xenhelper,access=rw,target=web1-xvda'" in text
    assert world.read("alice", "var/lib/xenhelper/originals/web1") == WEB1
    resource_file = world.folder / "alice/etc/drbd.d/web1.res"
    assert resource_file.stat().st_mode & 0o777 == 0o600

    settled = state(world)
    calls = world.calls()
    for host in ("alice", "bob", "alice"):
        again = world.run(host, "create", config_of(world, host))
        assert again.returncode == 0, again.stderr
    assert world.calls() == calls, "a known VM needs no program run"
    assert state(world) == settled


def test_plan_shows_it_and_changes_nothing(world: World) -> None:
    before = state(world)
    done = world.run("alice", "cli", "plan", config_of(world))
    assert done.returncode == 0, done.stderr
    assert "becomes resource web1-xvda, minor 1000, port 7800" in done.stdout
    assert state(world) == before


@pytest.mark.parametrize("option", ["-n", "--dryrun", "-h", "--dry"])
def test_dry_runs_pass_untouched(world: World, option: str) -> None:
    before = state(world)
    done = world.run("alice", "create", option, config_of(world))
    assert json.loads(done.stdout) == ["create", option, config_of(world)]
    assert world.calls() == 0 and state(world) == before


def refusals() -> list[Any]:
    return [
        pytest.param("peer off", 1, "bob gave no answer", id="peer off"),
        pytest.param("full", 3, "volume group vg0 on bob has", id="full"),
        pytest.param("no group", 3, "bob has no volume group vg0", id="no group"),
        pytest.param("volume there", 3, "bob has a volume /dev/vg0/web1-swap already", id="volume there"),
        pytest.param("in use", 3, "/dev/vg0/web1-root is in use on alice", id="in use"),
        pytest.param("missing", 3, "no such active volume", id="missing"),
        pytest.param("foreign file", 3, "web1.res that isn't xenhelper's", id="foreign file"),
        pytest.param("other config", 3, "is different and was changed there", id="other config"),
        pytest.param("runs there", 3, "web1 runs on bob", id="runs there"),
        pytest.param("runs here", 3, "web1 runs here already", id="runs here"),
        pytest.param("drbd 9", 3, "bob: DRBD 9.2.1 in the kernel isn't tested", id="drbd 9"),
        pytest.param("no drbd", 3, "alice: the kernel has no DRBD module", id="no drbd"),
        pytest.param("beneath", 3, "is beneath DRBD resource foreign", id="beneath"),
    ]


@pytest.mark.parametrize(("case", "status", "words"), refusals())
def test_each_refusal_is_one_line_and_leaves_all_as_it_was(
    world: World, case: str, status: int, words: str
) -> None:
    if case == "peer off":
        (world.folder / "bob.off").touch()
    elif case == "full":
        world.lvm("bob", {"vg0": GIB}, {})
    elif case == "no group":
        world.lvm("bob", {"vg1": GIB}, {})
    elif case == "volume there":
        world.lvm("bob", {"vg0": 16 * GIB}, {"vg0/web1-swap": GIB})
    elif case == "in use":
        world.edit_volume("alice", "vg0/web1-root", open=True)
    elif case == "missing":
        world.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1-root": GIB})
    elif case == "foreign file":
        world.write("bob", "etc/drbd.d/web1.res", "resource other { }\n")
    elif case == "other config":
        world.write("bob", "etc/xen/web1.cfg", WEB1.replace("128", "256"))
    elif case == "runs there":
        (world.folder / "bob.domains").write_text("web1")
    elif case == "runs here":
        (world.folder / "alice.domains").write_text("web1")
    elif case == "drbd 9":
        world.write("bob", "proc/drbd", "version: 9.2.1 (api:2)\n")
    elif case == "no drbd":
        (world.folder / "alice/proc/drbd").unlink()
    elif case == "beneath":
        world.write("alice", "etc/drbd.d/f.res", "resource foreign { disk /dev/mapper/vg0-web1--root; }")
    before = state(world)
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == status, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last and last.startswith("xenhelper: ")
    if case != "other config":
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    else:
        assert "-memory = 256" in done.stderr and "+memory = 128" in done.stderr
    assert state(world) == before


@pytest.mark.parametrize("name", ["a b", "../x", "-x", "wéb", "x" * 200, ".", "a--incoming"])
def test_odd_vm_names_are_refused_plainly(world: World, name: str) -> None:
    world.write("alice", "etc/xen/web1.cfg", WEB1.replace('"web1"', repr(name)))
    before = state(world)
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 2
    assert "can't be replicated" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert state(world) == before


def test_names_with_dots_get_resources_of_their_own(world: World) -> None:
    world.lvm("alice", {"vg0": 16 * GIB}, {"vg0/one": GIB, "vg0/two": GIB})
    for vm, volume in (("a.b", "one"), ("a_b", "two")):
        world.write("alice", f"etc/xen/{vm}.cfg", f"name='{vm}'\ndisk=['phy:/dev/vg0/{volume},xvda,w']\n")
        done = world.run("alice", "create", config_of(world, name=vm))
        assert done.returncode == 0, done.stderr
    assert sorted(records(world, "bob")) == ["a_b-xvda", "a_b_2-xvda"]
    assert records(world, "bob")["a_b-xvda"]["vm"] == "a.b"


def test_foreign_numbers_and_a_broken_foreign_file(world: World) -> None:
    world.write(
        "bob",
        "etc/drbd.d/foreign.res",
        "resource x { device /dev/drbd1000; on bob { address 10.99.0.2:7800; } "
        "on al { address 10.99.0.1:7801;",
    )
    world.write("alice", "etc/drbd.d/zz.res", "bogus {{{ resource y { device minor 1001; ")
    world.write("alice", "proc/net/tcp", "sl local_address\n 0: 00000000:1E7A 00000000:0000 0A\n")  # 7802
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 0, done.stderr
    assert "drbdadm can't read another resource file" in done.stderr
    numbers = {(item["minor"], item["port"]) for item in records(world, "alice").values()}
    assert numbers == {("1002", "7803"), ("1003", "7804")}


@pytest.mark.parametrize(
    "step",
    [
        "alice lvcreate",
        "bob lvcreate",
        "bob drbdmeta",
        "bob drbdadm -c",
        "alice drbdadm -c",
        "alice drbdsetup primary",
        "alice lvchange",
    ],
)
def test_a_failing_step_is_undone_on_both_hosts(world: World, step: str) -> None:
    before = state(world)
    world.fault(f"fail {step}")
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 1, done.stderr
    world.reset_calls()
    assert state(world) == before
    again = world.run("alice", "create", config_of(world))
    assert again.returncode == 0, again.stderr
    check_complete(world)


def crash_points() -> list[int]:
    every = 1 if os.environ.get("XENHELPER_ALL_CRASHES") else 7
    return list(range(5, 34, every) if every > 1 else range(1, 36))


@pytest.mark.parametrize("how", ["kill", "kill-after"])
@pytest.mark.parametrize("point", crash_points())
def test_a_crash_at_any_step_is_finished_or_undone(world: World, point: int, how: str) -> None:
    before = state(world)
    world.fault(f"{point} {how}")
    world.run("alice", "create", config_of(world))
    world.reset_calls()
    for host in ("bob", "alice", "bob"):  # as the reconcilers would, whoever comes first
        world.run(host, "recover", "web1")
    now = state(world)
    if records(world, "alice"):
        assert set(records(world, "alice")) == set(records(world, "bob")) == {"web1-xvda", "web1-xvdb"}
    else:
        assert now == before
    again = world.run("alice", "create", config_of(world))
    assert again.returncode == 0, again.stderr
    check_complete(world)


@pytest.mark.parametrize("point", [16, 25])
def test_the_same_command_again_needs_no_reconciler(world: World, point: int) -> None:
    world.fault(f"{point} kill")
    world.run("alice", "create", config_of(world))
    world.reset_calls()
    again = world.run("alice", "create", config_of(world))
    assert again.returncode == 0, again.stderr
    check_complete(world)


@pytest.mark.parametrize("step", ["bob lvcreate", "bob drbdadm -c"])
def test_the_peer_dies_in_the_middle(world: World, step: str) -> None:
    before = state(world)["alice"]
    world.fault(f"power {step}")
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 1 and "what was begun on bob isn't undone yet" in done.stderr
    assert state(world)["alice"] == before
    world.reset_calls()
    (world.folder / "bob.off").unlink()
    again = world.run("alice", "create", config_of(world))
    assert again.returncode == 0, again.stderr
    check_complete(world)


def test_ten_creates_at_once_from_both_hosts(world: World) -> None:
    for host in ("alice", "bob"):
        world.lvm(host, {"vg0": 64 * GIB}, {f"vg0/{host}{n}": GIB for n in range(5)})
        for n in range(5):
            text = f"name='{host}{n}'\ndisk=['phy:/dev/vg0/{host}{n},xvda,w']\n"
            world.write(host, f"etc/xen/{host}{n}.cfg", text)
    started = [
        world.start(host, "create", config_of(world, host, f"{host}{n}"))
        for n in range(5)
        for host in ("alice", "bob")
    ]
    for process in started:
        _, err = process.communicate(timeout=170)
        assert process.returncode == 0, err
    for host in ("alice", "bob"):
        found = records(world, host)
        assert len(found) == 10
        assert len({item["minor"] for item in found.values()}) == 10
        assert len({item["port"] for item in found.values()}) == 10
        assert len(world.drbd(host)) == 10


def test_both_hosts_creating_one_vm_at_once_end_with_one_set(world: World) -> None:
    world.write("bob", "etc/xen/web1.cfg", WEB1)
    both = [world.start(host, "create", config_of(world, host)) for host in ("alice", "bob")]
    ends = [process.communicate(timeout=60) + (process.returncode,) for process in both]
    assert ends[0][2] == 0, ends
    assert ends[1][2] in (0, 3), ends
    check_complete(world)


def test_a_changed_config_reaches_the_peer(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    text = world.read("alice", "etc/xen/web1.cfg").replace("memory = 128", "memory = 512")
    world.write("alice", "etc/xen/web1.cfg", text + "vcpus = 2\n")
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 0, done.stderr
    check_complete(world)
    there = world.read("bob", "etc/xen/web1.cfg")
    assert "memory = 512" in there and "vcpus = 2" in there
    # and the other way round
    world.write("bob", "etc/xen/web1.cfg", there.replace("memory = 512", "memory = 640"))
    assert world.run("bob", "create", config_of(world, "bob")).returncode == 0
    assert "memory = 640" in world.read("alice", "etc/xen/web1.cfg")
    # both changed: refused, and nothing is lost
    for host, memory in (("alice", "700"), ("bob", "800")):
        path = "etc/xen/web1.cfg"
        world.write(host, path, world.read(host, path).replace("memory = 640", f"memory = {memory}"))
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 3 and "-memory = 800" in done.stderr
    assert "memory = 700" in world.read("alice", "etc/xen/web1.cfg")
    assert "memory = 800" in world.read("bob", "etc/xen/web1.cfg")


def test_a_changed_config_starts_while_the_peer_is_away(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    text = world.read("alice", "etc/xen/web1.cfg").replace("memory = 128", "memory = 512")
    world.write("alice", "etc/xen/web1.cfg", text)
    (world.folder / "bob.off").touch()
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 0 and "at a later create" in done.stderr
    (world.folder / "bob.off").unlink()
    assert world.run("alice", "create", config_of(world)).returncode == 0
    check_complete(world)


def test_a_third_disk_joins_the_two(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    old = {name: (item["minor"], item["port"]) for name, item in records(world, "alice").items()}
    state_ = json.loads((world.folder / "alice.lvm.json").read_text())
    state_["volumes"]["vg0/data"] = {"size": GIB, "tags": []}
    (world.folder / "alice.lvm.json").write_text(json.dumps(state_))
    (world.folder / "alice/dev/vg0/data").write_bytes(b"")
    os.truncate(world.folder / "alice/dev/vg0/data", GIB)
    text = world.read("alice", "etc/xen/web1.cfg")
    world.write("alice", "etc/xen/web1.cfg", text.replace(",xvdb,w']", ",xvdb,w', '/dev/vg0/data,,xvdc']"))
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 0, done.stderr
    check_complete(world, disks={"xvda": "web1-root", "xvdb": "web1-swap", "xvdc": "data"})
    for name, numbers in old.items():
        assert (records(world, "bob")[name]["minor"], records(world, "bob")[name]["port"]) == numbers


def test_disks_on_the_command_line_are_passed_not_stored(world: World) -> None:
    world.write("alice", "etc/xen/web1.cfg", 'name = "web1"\n')
    setting = "disk=['phy:/dev/vg0/web1-root,xvda,w']"
    for _ in (1, 2):
        done = world.run("alice", "create", config_of(world), setting)
        assert done.returncode == 0, done.stderr
        argv = json.loads(done.stdout)
        assert argv[:3] == ["create", config_of(world), setting]
        assert re.fullmatch(r"disk=\['vdev=xvda.*target=web1-xvda'\]", argv[3])
    assert world.read("alice", "etc/xen/web1.cfg") == 'name = "web1"\n'
    assert list(records(world, "bob")) == ["web1-xvda"]


def test_what_policy_leaves_out_stays_out(world: World) -> None:
    world.lvm(
        "alice", {"vg0": 16 * GIB, "vg1": GIB}, {"vg0/scratch1": GIB, "vg1/x": GIB, "vg0/web1-root": GIB}
    )
    left = "disk=['phy:/dev/vg0/scratch1,xvda,w', 'phy:/dev/vg1/x,xvdb,w'"
    left += ", '/i.img,raw,xvdc,w', '/c.iso,,hdc:cdrom']"
    world.write("alice", "etc/xen/web1.cfg", "name='web1'\n" + left)
    world.write("alice", "etc/xen/t.cfg", WEB1.replace('"web1"', '"test-1"'))
    before = state(world)
    for name in ("web1", "t"):
        done = world.run("alice", "create", config_of(world, name=name))
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == ["create", config_of(world, name=name)]
    assert state(world) == before


def test_xls_own_words_when_it_cannot_read_the_config(world: World) -> None:
    world.write("alice", "etc/xen/web1.cfg", "name = 'web1'\ndisk = ['x\n")
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 1 and "config parsing error" in done.stderr


def test_an_edited_block_is_not_silently_overwritten(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    text = world.read("alice", "etc/xen/web1.cfg")
    world.write(
        "alice", "etc/xen/web1.cfg", text.replace("access=rw,target=web1-xvdb", "access=ro,target=web1-xvdb")
    )
    done = world.run("alice", "create", config_of(world))
    assert done.returncode == 1 and "edited by hand" in done.stderr


def test_a_copied_config_with_its_block_becomes_a_vm_of_its_own(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    group = json.loads((world.folder / "alice.lvm.json").read_text())
    for name in DISKS:
        new = name.replace("web1", "web2")
        group["volumes"][new] = {"size": GIB, "tags": []}
        with (world.folder / "alice/dev" / new).open("wb") as file:
            file.truncate(GIB)
    (world.folder / "alice.lvm.json").write_text(json.dumps(group))
    copy = world.read("alice", "etc/xen/web1.cfg").replace("web1", "web2")
    world.write("alice", "etc/xen/web2.cfg", copy)
    done = world.run("alice", "create", config_of(world, name="web2"))
    assert done.returncode == 0, done.stderr
    check_complete(world)
    check_complete(world, "web2", {"xvda": "web2-root", "xvdb": "web2-swap"})


def test_another_vm_on_the_same_volume_is_refused(world: World) -> None:
    assert world.run("alice", "create", config_of(world)).returncode == 0
    world.write("alice", "etc/xen/web2.cfg", WEB1.replace('"web1"', '"web2"'))
    done = world.run("alice", "create", config_of(world, name="web2"))
    assert done.returncode == 3 and "beneath DRBD resource web1-xvda" in done.stderr
