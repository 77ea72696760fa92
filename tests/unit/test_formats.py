"""What an earlier version left on disk, whole or half-way, is taken up by this one: upgrades.

Both hosts as each version kept them are in captured/state-VERSION. With a release that comes
after others, ``python3 -m tests.unit.test_formats`` adds its own; none is ever changed.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import xenhelper
from tests.unit import test_convert
from tests.unit.fakes import hosts
from tests.unit.fakes.hosts import World

CAPTURED = Path(__file__).parent / "captured"
VERSIONS = sorted(path.name.removeprefix("state-") for path in CAPTURED.glob("state-*"))
CFG = "/etc/xen/web1.cfg"
# not state: the fakes' own, and what is as large as a disk
_LEFT_OUT = ("bin", "dev", "run/xenhelper/locks")


def _replicated(folder: Path) -> World:
    return hosts.replicated(folder)


def _killed(folder: Path, order: str) -> World:
    """A first create that was killed at a step."""
    made = World(folder)
    made.lvm("alice", {"vg0": 16 << 30}, {"vg0/web1": 2 << 30, "vg0/web1-b": 1 << 30})
    disks = "disk=['phy:/dev/vg0/web1,xvda,w', 'phy:/dev/vg0/web1-b,xvdb,w']"
    made.write("alice", CFG, f"name='web1'\n{disks}\n")
    test_convert.arm(made, "alice", order)
    assert made.run("alice", "create", CFG).returncode != 0
    made.reset_calls()
    return made


def _begun(folder: Path) -> World:
    return _killed(folder, "before provision:promote_once:verbs.primary")


def _committed(folder: Path) -> World:
    return _killed(folder, "after provision:_write:intents.write 2")


def _half_forgotten(folder: Path) -> World:
    made = hosts.replicated(folder)
    test_convert.arm(made, "alice", "before forget:_volumes:volumes.remove#1")
    assert made.run("alice", "cli", "forget", "web1").returncode != 0
    made.reset_calls()
    return made


def _converted(folder: Path) -> World:
    made = World(folder)
    test_convert.build(made)
    assert made.run("alice", "cli", "convert", "hand").returncode == 0
    made.reset_calls()
    return made


CASES: dict[str, Callable[[Path], World]] = {
    "replicated": _replicated,
    "begun": _begun,
    "committed": _committed,
    "half-forgotten": _half_forgotten,
    "converted": _converted,
}


def keep(world: World) -> str:
    """Every file of both hosts, as JSON."""
    found = {}
    for path in sorted(world.folder.rglob("*")):
        name = str(path.relative_to(world.folder))
        below = name.partition("/")[2]
        skipped = any(f"{part}/".startswith(f"{skip}/") for part in (name, below) for skip in _LEFT_OUT)
        if path.is_file() and not skipped:
            found[name] = path.read_text()
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def load(folder: Path, version: str, case: str) -> World:
    """Both hosts as ``version`` kept them."""
    made = World(folder)
    files = json.loads((CAPTURED / f"state-{version}/{case}.json").read_text())
    for host in ("alice", "bob"):
        lvm = json.loads(files[f"{host}.lvm.json"])
        made.lvm(host, lvm["groups"], {name: item["size"] for name, item in lvm["volumes"].items()})
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644 if "/etc/xen/" in name else 0o600)
    return made


def _nothing_left(world: World, *names: str) -> None:
    for host in ("alice", "bob"):
        state = [name for name in world.files(host) if name.startswith("var/") and "/counters" not in name]
        assert state == [], host
        assert set(world.volumes(host)) <= set(names), host
        assert not any(item["tags"] for item in world.volumes(host).values()), host
    assert world.drbd("alice") == world.drbd("bob") == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_replicated_vm_is_known_and_can_be_given_back(tmp_path: Path, version: str) -> None:
    world = load(tmp_path / "world", version, "replicated")
    before = {host: world.files(host) for host in ("alice", "bob")}
    for host in ("alice", "bob"):
        done = world.run(host, "create", CFG)
        assert done.returncode == 0, done.stderr
    assert {host: world.files(host) for host in ("alice", "bob")} == before
    assert world.calls() == 0, "daily work needs no program run"
    # from the records and, as after a new dom0, from tags and the other host
    (tmp_path / "world/alice/etc/drbd.d/web1.res").unlink()
    assert world.run("alice", "resfile", "web1").stdout.strip() == "True"
    assert world.read("alice", "etc/drbd.d/web1.res") == before["alice"]["etc/drbd.d/web1.res"]
    done = world.run("alice", "cli", "forget", "web1")
    assert done.returncode == 0, done.stderr
    assert "block-xenhelper" not in world.read("alice", CFG)
    _nothing_left(world, "vg0/web1", "vg0/web1-b")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_had_begun_is_undone_and_what_it_had_committed_is_finished(
    tmp_path: Path, version: str
) -> None:
    world = load(tmp_path / "begun", version, "begun")
    assert world.run("alice", "recover", "web1").stdout.strip() == "undone"
    _nothing_left(world, "vg0/web1", "vg0/web1-b")
    # by the other host, and by the same command again
    world = load(tmp_path / "committed", version, "committed")
    assert world.run("bob", "recover", "web1").stdout.strip() == "finished"
    world = load(tmp_path / "again", version, "committed")
    done = world.run("alice", "create", CFG)
    assert done.returncode == 0, done.stderr
    assert set(world.drbd("bob")) == {"web1-xvda", "web1-xvdb"}
    assert world.read("alice", CFG) == world.read("bob", CFG)
    assert not list((tmp_path / "again").glob("*/var/lib/xenhelper/intents/*"))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_had_half_forgotten_or_converted_goes_on_too(tmp_path: Path, version: str) -> None:
    world = load(tmp_path / "forgotten", version, "half-forgotten")
    done = world.run("alice", "cli", "forget", "web1")
    assert done.returncode == 0, done.stderr
    _nothing_left(world, "vg0/web1", "vg0/web1-b")
    world = load(tmp_path / "converted", version, "converted")
    assert world.run("bob", "create", test_convert.CONFIG).returncode == 0
    done = world.run("bob", "cli", "forget", "hand")
    assert done.returncode == 0, done.stderr
    for host in ("alice", "bob"):
        assert world.read(host, "etc/drbd.d/hand.res") == test_convert.resource_file()
        assert world.read(host, test_convert.CONFIG) == test_convert.TEXT


def test_this_version_is_among_them() -> None:
    assert xenhelper.__version__ in VERSIONS, "python3 -m tests.unit.test_formats"


if __name__ == "__main__":
    import tempfile

    target = CAPTURED / f"state-{xenhelper.__version__}"
    if target.exists():
        sys.exit(f"{target} is there already, and stays as it is")
    target.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in CASES.items():
            (target / f"{name}.json").write_text(keep(make(Path(scratch) / name)))
