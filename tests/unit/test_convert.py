"""What was replicated by hand for block-drbd is taken over, and given back, byte for byte."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.byhand import resource_file
from tests.unit.fakes.hosts import GIB, World
from xenhelper import byhand, config, convert, plan, policy, volumes
from xenhelper.byhand import Side
from xenhelper.doctor import configs
from xenhelper.drbd import resscan, show
from xenhelper.errors import Refused, XenhelperError
from xenhelper.setup import obstacles

CONFIG = "/etc/xen/hand.cfg"
DISKS = ("hand-xvda", "hand-xvdb")
TEXT = """\
name = "hand"
memory = 128
disk = ['script=block-drbd,vdev=xvda,access=rw,target=hand-xvda',
        'script=block-drbd,vdev=xvdb,target=hand-xvdb']
"""


def build(world: World, file: str = "hand.res", text: str = "") -> None:
    """The same as tests/bench/byhand.py makes on real hosts."""
    state: dict[str, Any] = {}
    for number, host in ((1, "alice"), (2, "bob")):
        sizes = {f"vg0/{name}{end}": GIB for name in DISKS for end in ("", "_meta")}
        world.lvm(host, {"vg0": 16 * GIB, "vg1": 4 * GIB}, sizes)
        world.write(host, CONFIG, TEXT)
        world.write(host, f"etc/drbd.d/{file}", text or resource_file()).chmod(0o640)
        state[host] = {
            name: {
                "minor": 2000 + at, "port": 7700 + at, "secret": "", "address": f"10.99.0.{number}",
                "remote": f"10.99.0.{3 - number}", "size": GIB, "protocol": "C",
                "volume": f"/dev/vg0/{name}", "meta": f"/dev/vg0/{name}_meta",
                "dual": "yes", "fencing": "dont-care", "role": "Secondary", "disk": "UpToDate",
            }
            for at, name in enumerate(DISKS)
        }  # fmt: skip
        for name in DISKS:
            (world.folder / host / "dev/vg0" / name).write_bytes(b"precious" * 512)
    settle(world, state)


def settle(world: World, state: dict[str, Any]) -> None:
    """The kernels have it so."""
    (world.folder / "drbd.json").write_text(json.dumps(state))
    env = {**world.env("alice"), "PATH": "/usr/bin:/bin"}
    subprocess.run([world.folder / "bin/drbdsetup", "secondary", "2000"], env=env, check=True)
    world.reset_calls()


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    build(made)
    return made


def start(world: World, host: str, name: str) -> bytes:
    with (world.folder / host / "dev" / name).open("rb") as file:
        return file.read(4096)


def state(world: World) -> dict[str, Any]:
    """All that must be as before when nothing came of it."""
    found: dict[str, Any] = {"drbd": [world.drbd("alice"), world.drbd("bob")]}
    for host in ("alice", "bob"):
        found[host] = world.volumes(host)
        files = world.files(host)
        found[host + "-files"] = {k: v for k, v in files.items() if not k.endswith("xenhelper.conf")}
        found[host + "-data"] = {name: start(world, host, name) for name in found[host]}
    return found


def records(world: World, host: str) -> dict[str, dict[str, str]]:
    folder = world.folder / host / "var/lib/xenhelper/resources"
    return {
        path.name: dict(line.split("=", 1) for line in path.read_text().splitlines())
        for path in (sorted(folder.iterdir()) if folder.exists() else [])
    }


def check_converted(world: World, before: dict[str, Any], file: str = "hand.res") -> None:
    now = state(world)
    for at, host in enumerate(("alice", "bob")):
        assert now[host + "-data"] == before[host + "-data"]
        assert not list((world.folder / host / "var/lib/xenhelper/intents").glob("*"))
        assert set(records(world, host)) == set(DISKS)
        for name, runs in now["drbd"][at].items():
            old = before["drbd"][at][name]
            assert (runs["protocol"], runs["dual"], runs["fencing"]) == ("A", "no", "resource-only")
            assert len(runs["secret"]) == 32
            kept = ("minor", "port", "volume", "meta", "size", "role", "disk")
            assert [runs[key] for key in kept] == [old[key] for key in kept]
            record = records(world, host)[name]
            assert record["meta"] == old["meta"] and record["taken_over"] == "yes"
            assert f"xenhelper.resource={name}" in now[host][f"vg0/{name}"]["tags"]
        assert world.read(host, f"var/lib/xenhelper/handmade/hand/{file}") == resource_file()
        assert [path.name for path in (world.folder / host / "etc/drbd.d").glob("*.res")] == ["hand.res"]
        config_ = world.read(host, CONFIG)
        assert config_.startswith(TEXT) and config_.count("script=block-xenhelper") == 2
    assert now["alice-files"]["etc/drbd.d/hand.res"] == now["bob-files"]["etc/drbd.d/hand.res"]


def test_it_is_converted_started_and_given_back(world: World) -> None:
    before = state(world)
    dry = world.run("alice", "cli", "convert", "hand", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would: xvda: resource hand-xvda (minor 2000, port 7700) on /dev/vg0/hand-xvda stays" in dry.stdout
    assert state(world) == before
    done = world.run("alice", "cli", "convert", "hand")
    assert done.returncode == 0, done.stderr
    check_converted(world, before)
    # daily work from here on: a known VM needs no program run
    settled, calls = state(world), world.calls()
    for host in ("alice", "bob"):
        assert world.run(host, "create", CONFIG).returncode == 0
    assert (state(world), world.calls()) == (settled, calls)
    again = world.run("bob", "cli", "convert", "hand")
    assert again.returncode == 0 and "is converted" in again.stdout, again.stderr
    assert state(world) == settled
    refused = world.run("alice", "cli", "forget", "hand", "--delete-peer-volumes")
    assert refused.returncode == 3 and "was replicated by hand before" in refused.stderr
    assert state(world) == settled
    # and back: as if it had never been
    done = world.run("alice", "cli", "forget", "hand")
    assert done.returncode == 0, done.stderr
    assert state(world) == before
    for host in ("alice", "bob"):
        assert (world.folder / host / "etc/drbd.d/hand.res").stat().st_mode & 0o777 == 0o640
        assert not [name for name in world.files(host) if name.startswith("var/")]


def test_a_file_of_another_name_and_a_disk_that_joins(world: World) -> None:
    """Also a plain volume beside them, which policy replicates like any other."""
    other_file(world)
    data = json.loads((world.folder / "alice.lvm.json").read_text())
    data["volumes"]["vg0/plain"] = {"size": GIB, "tags": []}
    (world.folder / "alice.lvm.json").write_text(json.dumps(data))
    path = world.folder / "alice/dev/vg0/plain"
    path.write_bytes(b"")
    os.truncate(path, GIB)
    text = TEXT.replace("target=hand-xvdb']", "target=hand-xvdb', 'phy:/dev/vg0/plain,xvdc,w']")
    for host in ("alice", "bob"):
        world.write(host, CONFIG, text)
    before = state(world)
    done = world.run("alice", "cli", "convert", "hand")
    assert done.returncode == 0, done.stderr
    for host in ("alice", "bob"):
        assert set(records(world, host)) == {*DISKS, "hand-xvdc"}
        assert world.read(host, CONFIG).count("script=block-xenhelper") == 3
        assert not (world.folder / host / "etc/drbd.d/r0.res").exists()
        assert {runs["dual"] for runs in world.drbd(host).values()} == {"no"}
    done = world.run("bob", "cli", "forget", "hand")
    assert done.returncode == 0, done.stderr
    after = state(world)
    assert after["drbd"] == before["drbd"] and after["alice-files"] == before["alice-files"]
    assert after["alice"] == before["alice"]


def test_metadata_inside_stays_inside_and_is_not_grown(world: World) -> None:
    text = resource_file().replace("meta-disk /dev/vg0/hand-xvda_meta", "meta-disk internal")
    kernels = {host: world.drbd(host) for host in ("alice", "bob")}
    for host in kernels:
        kernels[host]["hand-xvda"]["meta"] = "internal"
        world.write(host, "etc/drbd.d/hand.res", text)
    settle(world, kernels)
    done = world.run("alice", "cli", "convert", "hand")
    assert done.returncode == 0, done.stderr
    ours = world.read("bob", "etc/drbd.d/hand.res")
    assert ours.count('meta-disk "internal"') == 0 and ours.count("meta-disk internal;") == 2
    assert records(world, "bob")["hand-xvda"]["meta"] == "internal"
    said = world.run("alice", "cli", "grow", "hand", "xvda", "+1G")
    assert said.returncode == 3 and "its metadata on its own volume" in said.stderr
    assert world.run("alice", "cli", "forget", "hand").returncode == 0
    assert world.read("bob", "etc/drbd.d/hand.res") == text
    assert not any(item["tags"] for item in world.volumes("alice").values())


def refusals() -> list[Any]:
    return [
        pytest.param("runs there", 3, "hand runs on bob", id="runs there"),
        pytest.param("peer off", 1, "bob gave no answer", id="peer off"),
        pytest.param("primary", 3, "is Primary on alice", id="primary"),
        pytest.param("apart", 3, "alice is Connecting", id="apart"),
        pytest.param("shared file", 3, "holds more than hand's disks: other", id="shared file"),
        pytest.param("two files", 3, "isn't defined by just one file", id="two files"),
        pytest.param("other config", 3, "is different and was changed there", id="other config"),
        pytest.param("other link", 3, "no paired host's replication address", id="other link"),
        pytest.param("not by hand", 1, "no disk for block-drbd", id="not by hand"),
    ]


@pytest.mark.parametrize(("case", "status", "words"), refusals())
def test_each_refusal_is_one_line_and_leaves_all_as_it_was(
    world: World, case: str, status: int, words: str
) -> None:
    kernels = {host: world.drbd(host) for host in ("alice", "bob")}
    if case == "runs there":
        (world.folder / "bob.domains").write_text("hand")
    elif case == "peer off":
        (world.folder / "bob.off").touch()
    elif case == "primary":
        kernels["alice"]["hand-xvdb"]["role"] = "Primary"
    elif case == "apart":
        kernels["bob"]["hand-xvdb"]["port"] = 7709
    elif case == "shared file":
        text = resource_file() + "resource other {\n  on bob { device minor 1; }\n}\n"
        world.write("bob", "etc/drbd.d/hand.res", text)
    elif case == "two files":
        world.write("bob", "etc/drbd.d/r0.res", resource_file())
    elif case == "other config":
        world.write("bob", CONFIG, TEXT.replace("128", "256"))
    elif case == "other link":
        for host in kernels:
            kernels[host]["hand-xvda"].update(address="172.16.0.1", remote="172.16.0.2")
    else:
        world.write("alice", CONFIG, "name = 'hand'\ndisk = ['phy:/dev/vg1/x,xvda,w']\n")
    settle(world, kernels)
    before = state(world)
    done = world.run("alice", "cli", "convert", "hand")
    assert done.returncode == status, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last and last.startswith("xenhelper: ")
    assert state(world) == before


@pytest.mark.parametrize("step", ["bob drbdadm -c", "alice drbdadm -c", "alice lvchange --addtag"])
def test_a_failing_step_is_undone_on_both_hosts(world: World, step: str) -> None:
    before = state(world)
    world.fault(f"fail {step}")
    done = world.run("alice", "cli", "convert", "hand")
    assert done.returncode == 1, done.stderr
    assert state(world) == before


# with ``file`` r0.res, so that a file goes as well as comes
KILLS = [
    ("bob", "after provision:_write:intents.write"),
    ("bob", "after handmade:_keep:statefile.write_atomically"),
    ("bob", "after handmade:take:statefile.remove"),
    ("bob", "before handmade:take:volumes.change_tags 2"),
    ("alice", "before handmade:take:statefile.write_atomically"),
    ("alice", "after handmade:take:bringup.adm#2"),
    ("alice", "after handmade:take:volumes.change_tags 4"),
    ("alice", "before provision:write_records:statefile.write 2"),
    ("alice", "after vmfile:store:statefile.write_atomically"),
    ("bob", "before provision:write_records:statefile.write 2"),
]


def other_file(world: World) -> None:
    for host in ("alice", "bob"):
        (world.folder / host / "etc/drbd.d/hand.res").rename(world.folder / host / "etc/drbd.d/r0.res")


def arm(world: World, host: str, order: str) -> Path:
    path = world.write(host, "run/xenhelper/crash-at", order + "\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("host", "order"), KILLS)
def test_a_crash_at_any_step_is_finished_or_undone(world: World, host: str, order: str) -> None:
    other_file(world)
    before = state(world)
    armed = arm(world, host, order)
    assert world.run("alice", "cli", "convert", "hand").returncode != 0
    assert not armed.exists(), "that step isn't come to"
    for end in ("bob", "alice", "bob"):  # as the reconcilers would, whoever comes first
        world.run(end, "recover", "hand")
    if records(world, "alice"):
        assert set(records(world, "alice")) == set(records(world, "bob")) == set(DISKS)
    else:
        assert state(world) == before
    again = world.run("alice", "cli", "convert", "hand")
    assert again.returncode == 0, again.stderr
    check_converted(world, before, "r0.res")


def test_the_same_command_again_needs_no_reconciler(world: World) -> None:
    before = state(world)
    arm(world, "alice", "after handmade:take:bringup.adm#2")
    world.run("alice", "cli", "convert", "hand")
    again = world.run("alice", "cli", "convert", "hand")
    assert again.returncode == 0, again.stderr
    check_converted(world, before)


@pytest.mark.parametrize(
    ("host", "order"),
    [
        ("bob", "after handmade:_put_back:statefile.write_atomically"),
        ("alice", "after handmade:_follow:run"),
        ("alice", "before handmade:give_back:statefile.remove#3"),
        ("alice", "before forget:here:statefile.remove#3"),
    ],
)
def test_going_back_killed_at_any_step_goes_on(world: World, host: str, order: str) -> None:
    other_file(world)
    before = state(world)
    assert world.run("alice", "cli", "convert", "hand").returncode == 0
    armed = arm(world, host, order)
    assert world.run("alice", "cli", "forget", "hand").returncode != 0
    assert not armed.exists(), "that step isn't come to"
    again = world.run("alice", "cli", "forget", "hand")
    assert again.returncode == 0, again.stderr
    assert state(world) == before


def test_its_file_is_rendered_anew_and_a_lost_volume_is_not(world: World) -> None:
    """Metadata stays where its administrator put it, on the other host as well."""
    assert world.run("alice", "cli", "convert", "hand").returncode == 0
    ours = world.read("bob", "etc/drbd.d/hand.res")
    (world.folder / "bob/etc/drbd.d/hand.res").unlink()
    assert world.run("bob", "resfile", "hand").stdout.strip() == "True"
    assert world.read("bob", "etc/drbd.d/hand.res") == ours
    world.lose("bob", "hand-xvda", ["vg0/hand-xvda", "vg0/hand-xvda_meta"])
    refused = world.run("bob", "cli", "replicate", "hand", "--from-peer")
    assert refused.returncode == 3 and "/dev/vg0/hand-xvda is lost" in refused.stderr
    assert "vg0/hand-xvda" not in world.volumes("bob")


def test_a_host_that_was_installed_anew_has_it_again(world: World) -> None:
    """From tags and the peer. What it was before is lost there, and is asked for."""
    other_file(world)
    assert world.run("alice", "cli", "convert", "hand").returncode == 0
    kept = {name: text for name, text in world.files("bob").items() if "hand" in name}
    for name in kept:
        (world.folder / "bob" / name).unlink()
    done = world.run("bob", "cli", "reconcile", "--from-volumes")
    assert done.returncode == 0, done.stderr
    assert world.read("bob", "etc/drbd.d/hand.res") == kept["etc/drbd.d/hand.res"]
    assert records(world, "bob")["hand-xvda"]["meta"] == "/dev/vg0/hand-xvda_meta"
    complete = state(world)
    refused = world.run("alice", "cli", "forget", "hand")
    assert refused.returncode == 3 and "before hand was converted isn't on bob" in refused.stderr
    assert state(world) == complete
    old = "var/lib/xenhelper/handmade/hand/r0.res"
    world.write("bob", old, kept[old])
    assert world.run("alice", "cli", "forget", "hand").returncode == 0
    assert world.read("bob", "etc/drbd.d/r0.res") == kept[old]


# pure

ALICE = Side(
    "alice", "r0", 2000, "0", "ipv4:10.99.0.1:7700", "ipv4:10.99.0.2:7700", "/dev/vg0/r0", "/dev/vg0/r0",
    "/dev/vg0/r0_meta", GIB, "Secondary", byhand.IN_SYNC, "r0.res",
)  # fmt: skip
BOB = replace(ALICE, host="bob", local=ALICE.remote, remote=ALICE.local)
PEER = config.Peer("bob", "192.168.1.2", "10.99.0.2", "10.99.0.1", {"vg0": "vg0"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"minor": -1}, "isn't up on alice"),
        ({"numbers": "0,1"}, "has DRBD volumes 0,1"),
        ({"numbers": "1"}, "has DRBD volumes 1"),
        ({"volume": "", "shown": "/dev/sda5"}, "lies on /dev/sda5, which is no LVM volume"),
        ({"meta": ""}, "in an indexed place"),
        ({"file": ""}, "isn't defined by just one file"),
        ({"besides": "common"}, "holds more than hand's disks: common"),
        ({"used": "/dev/vg0/r0 is used by domain x"}, "used by domain x, beneath DRBD"),
        ({"role": "Primary"}, "is Primary on alice"),
        ({"state": "Connected UpToDate/Inconsistent"}, "is Connected UpToDate/Inconsistent"),
    ],
)
def test_one_end_is_looked_at(change: dict[str, Any], words: str) -> None:
    byhand.check_side(ALICE, "hand")
    with pytest.raises(Refused, match=words):
        byhand.check_side(replace(ALICE, **change), "hand")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"local": "ipv4:10.99.0.2:7701"}, "goes from"),
        ({"minor": 2001}, "another minor or port"),
    ],
)
def test_both_ends_are_two_ends_of_one(change: dict[str, Any], words: str) -> None:
    convert.check_pairs([ALICE], [BOB], None, PEER)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=words):
        convert.check_pairs([ALICE], [replace(BOB, **change)], None, PEER)  # type: ignore[arg-type]
    with pytest.raises(XenhelperError, match="didn't say"):
        convert.check_pairs([ALICE], [], None, PEER)  # type: ignore[arg-type]


def test_what_the_peer_says_of_its_ends_is_checked() -> None:
    from dataclasses import asdict

    assert byhand.side_from_json(asdict(BOB)) == BOB
    for change in ({"minor": "1"}, {"size": None}, {"more": 1}):
        with pytest.raises(XenhelperError):
            byhand.side_from_json({**asdict(BOB), **change})
    with pytest.raises(XenhelperError):
        byhand.side_from_json(["alice"])


def test_a_peer_asks_for_no_more_than_a_vms_disks() -> None:
    with pytest.raises(Refused, match="more than a VM's disks"):
        byhand.serve_look("bob", {"vm": "hand", "resources": ["r"] * 65})


def test_what_stands_at_the_top_of_a_file() -> None:
    text = '# x\ninclude "a/*.res";\ncommon { net { protocol C; } }\n'
    text += 'resource "r 0" {\n on a { disk x; } }\nresource r1 {'
    assert resscan.top_level(text) == [
        ["include", "a/*.res"],
        ["common"],
        ["resource", "r 0"],
        ["resource", "r1"],
    ]
    assert resscan.top_level("}}} resource a { } }") == [["resource", "a"]]
    assert [words[1] for words in resscan.top_level(resource_file())] == list(DISKS)


def test_settings_that_matter_here_are_read() -> None:
    text = (Path(__file__).parent / "captured/drbdsetup-show-both-primary-alice.txt").read_text()
    found = show.parse(text)["web1-xvda"]
    assert (found.fencing, found.numbers, found.meta) == ("resource-only", ["0"], "/dev/vg0/web1-root_xhmeta")
    head = "resource r {\n _this_host {\n volume 0 {\n device minor 1;\n "
    for line, meta in (("meta-disk internal;", "internal"), ('meta-disk "/dev/x" [ 0 ];', "")):
        assert show.parse(head + line + "\n }\n }\n}\n")["r"].meta == meta
    two = show.parse(head + "}\n volume 1 {\n device minor 2;\n }\n }\n}\n")["r"]
    assert two.numbers == ["0", "1"]


def test_a_plan_that_takes_over_is_the_same_from_either_end() -> None:
    disk = plan.Disk(
        "xvda", "r0", 2000, 7700, GIB, "vg0", "vg1", "a", "ab" * 16, 0, 0, taken=True,
        meta="internal", peer_meta="/dev/vg1/m", peer_name="b",
    )  # fmt: skip
    made = plan.Plan("1f", "hand", "alice", "10.99.0.1", "bob", "10.99.0.2", "A", (disk,))
    turned = made.seen_from("bob")
    assert turned.seen_from("alice") == made and turned.resource_file() == made.resource_file()
    assert plan.from_json(made.to_json()) == made and made.takes_over
    there = turned.record(turned.disks[0], "")
    assert (there["volume"], there["meta"]) == ("/dev/vg1/b", "/dev/vg1/m")
    assert (there["peer_volume"], there["peer_meta"]) == ("/dev/vg0/a", "internal")
    text = made.resource_file()
    assert (
        "meta-disk internal;" in text and 'disk "/dev/vg1/b";' in text and made.resource_file_before() is None
    )
    for change in ({"meta": ""}, {"meta": "/etc/passwd"}, {"peer_name": "../x"}, {"taken": False}):
        with pytest.raises(XenhelperError):
            plan.from_json(replace(made, disks=(replace(disk, **change),)).to_json())  # type: ignore[arg-type]


def test_policy_knows_what_was_taken_over() -> None:
    volume = volumes.Volume("vg0", "hand-xvda", GIB)
    disk = {"vdev": "xvda", "pdev_path": "hand-xvda", "script": "block-drbd"}
    rules = policy.Rules(("vg0",))
    record = {"vm": "hand", "volume": volume.path}
    for records_, action in (
        ({}, policy.LEAVE),
        ({"hand-xvda": record}, policy.REPLICATE),
        ({"hand-xvda": {**record, "vm": "web1"}}, policy.REFUSE),
    ):
        (said,) = policy.decide("hand", [disk], rules, policy.Facts((volume,), records_, {}))
        assert said.action == action
        assert said.resource == ("hand-xvda" if action == policy.REPLICATE else "")


def test_it_is_told_until_it_is_converted() -> None:
    ours = (
        TEXT
        + "\n# >>> xenhelper: VM hand, x\n# checksum 0123456789abcdef\ndisk = ['script=block-xenhelper']\n"
    )
    assert obstacles.names_by_hand(TEXT) and not obstacles.names_by_hand(ours)
    assert obstacles.names_by_hand("disk = ['drbd:r0,xvda,w']")
    assert configs.judge(TEXT, [])["by_hand"] and not configs.judge(ours, [])["by_hand"]
