"""A VM that is off comes from an old server: real bytes through a real pipe, by its own tools."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes.hosts import GIB, World
from tests.unit.fakes.oldserver import Old

MIB = 1 << 20
CONFIG = "/etc/xen/web1.cfg"
ROOT, SWAP = "/dev/oldvg/web1-root", "/srv/xen/web1-swap.img"
TEXT = f"""\
name = 'web1'
memory = 128
kernel = '/boot/vmlinuz'
disk = ['phy:{ROOT},xvda,w', 'file:{SWAP},xvdb,w']
vif = ['mac=00:16:3e:00:00:01,bridge=xenbr0']
"""
# data, a hole, data and zeros in small; the image ends within a chunk and within an extent
ROOT_DATA = (
    os.urandom(2 * MIB) + bytes(3 * MIB) + os.urandom(MIB // 2) + bytes(MIB) + os.urandom(MIB + MIB // 2)
)
SWAP_DATA = os.urandom(MIB) + bytes(2 * MIB) + os.urandom(MIB // 2)
CHUNKS = 8 + 4


class Both:
    """The two hosts and the old server."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.old = Old(folder)
        (folder / "stale").touch()
        for host in ("alice", "bob"):
            self.world.write(host, "etc/xenhelper/xenhelper.conf", "")
        self.old.volume("oldvg/web1-root", ROOT_DATA)
        self.old.volume("oldvg/other", os.urandom(4096))
        self.old.file(SWAP, SWAP_DATA)
        self.old.file(CONFIG, TEXT.encode())
        self.old.file("/etc/xen/other.cfg", b"name = 'other' # not web1\n")
        self.before = self.theirs()

    def run(self, *args: str) -> "Any":
        return self.world.run("alice", "cli", "import", *args)

    def theirs(self) -> dict[str, bytes]:
        top = self.old.root
        return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}

    def volume(self, name: str) -> bytes:
        return (self.world.folder / "alice/dev/vg0" / name).read_bytes()

    def intents(self) -> list[str]:
        return [path.name for path in (self.world.folder / "alice/var/lib/xenhelper/intents").glob("*")]

    def check_whole(self, root: bytes = ROOT_DATA, swap: bytes = SWAP_DATA) -> None:
        for name, data in (("web1-root", root), ("web1-xvdb", swap)):
            found = self.volume(name)
            assert len(found) == -(-len(data) // (4 * MIB)) * 4 * MIB
            assert found[: len(data)] == data and not found[len(data) :].strip(b"\0"), name
        for host in ("alice", "bob"):
            tags = [tag for item in self.world.volumes(host).values() for tag in item["tags"]]
            assert not [tag for tag in tags if tag.startswith("xenhelper.import")]
            assert set(self.world.drbd(host)) == {"web1-xvda", "web1-xvdb"}
            config = self.world.read(host, CONFIG)
            assert "phy:/dev/vg0/web1-root,xvda,w" in config and "file:/dev/vg0/web1-xvdb,xvdb,w" in config
            assert config.count("script=block-xenhelper") == 2
        assert self.intents() == []
        assert not (self.world.folder / "alice/var/lib/xenhelper/import/web1").exists()


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path / "world")


def arm(both: Both, order: str) -> Path:
    path = both.world.write("alice", "run/xenhelper/crash-at", order + "\n")
    path.chmod(0o600)
    return path


def test_it_comes_whole_and_is_replicated(both: Both) -> None:
    files = both.world.files("alice")
    dry = both.run("root@old", "--vm", "web1", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"would: xvda: old:{ROOT} (8 MiB) to /dev/vg0/web1-root, replicated with bob\n" in dry.stdout
    assert f"would: config old:{CONFIG} to {CONFIG}" in dry.stdout and "warning" not in dry.stdout
    assert both.world.files("alice") == files and both.world.volumes("alice") == {}
    both.old.file("/etc/xen/auto/web1.cfg", b"")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()
    assert len(both.old.sent()) == CHUNKS, "the source was read more than once"
    assert f"xvda: the same on both hosts, sha256 {hashlib.sha256(ROOT_DATA).hexdigest()}" in done.stdout
    assert "web1: copied: 50 % of" in done.stdout and "old starts web1 at boot" in done.stdout
    assert "xvdb: replicated with bob as web1-xvdb" in done.stdout
    after = both.theirs()
    after.pop("etc/xen/auto/web1.cfg")
    assert after == both.before, "something was written on the old server"
    again = both.run("root@old", "--vm", "web1")
    assert again.returncode == 3 and "is replicated on this host already" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["root@old:/etc/xen/web1.cfg"],
        [f"old:{ROOT}", SWAP],
        [f"root@old:{SWAP}", f"root@old:{ROOT}", "--vm", "web1", "--limit", "400M"],
    ],
)
def test_other_ways_to_name_it(both: Both, words: list[str]) -> None:
    done = both.run(*words)
    assert done.returncode == 0, done.stderr
    both.check_whole()


# places where it may die; the count is of the whole run
KILLS = [
    "after importing.story:_carry_out:intents.write#1",
    "after importing.story:_carry_out:volumes.create 2",
    "after importing.sums:Sums.note:statefile.write_at",
    "before importing.sums:Sums.note:statefile.write_at 6",
    "after importing.sums:Sums.note:statefile.write_at 12",
    "before importing.story:_carry_out:intents.write#2",
    "after importing.story:_carry_out:intents.write#2",
    "after vmfile:store:statefile.write_atomically < importing.story:_place",
    "after importing.story:_place:volumes.change_tags",
    "after provision:build:adm.create_md",
    "after provision:_write:intents.write 2",
    "before importing.story:_clear:statefile.remove#1",
    "before importing.story:_clear:intents.remove",
]


@pytest.mark.parametrize("order", KILLS)
def test_killed_at_any_step_the_same_command_finishes(both: Both, order: str) -> None:
    armed = arm(both, order)
    died = both.run("root@old", "--vm", "web1")
    assert died.returncode == -9, (died.returncode, died.stderr)
    assert not armed.exists()
    both.world.run("alice", "recover", "web1")  # the reconciler of both comes in between
    both.world.run("bob", "recover", "web1")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()
    # what was on disk when it died isn't sent again
    assert len(both.old.sent()) <= CHUNKS + 8, "more than what was on its way"


@pytest.mark.parametrize("seed", range(3))
def test_cut_and_killed_again_and_again(both: Both, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        if chance.random() < 0.5:
            both.old.forget_sent()
            both.old.plan(f"{chance.randint(1, 6)} {chance.choice(['cut', 'cut', 'stall'])}")
        else:
            step = "importing.sums:Sums.note:statefile.write_at"
            arm(both, f"{chance.choice(['before', 'after'])} {step} {chance.randint(1, 4)}")
        both.run("root@old", "--vm", "web1")
        if chance.random() < 0.3:
            both.old.change(boot=f"b{chance.random()}")  # the old server was booted in between
        if chance.random() < 0.3:
            offset = chance.randrange(0, len(ROOT_DATA) - 4096)
            both.old.edit("oldvg/web1-root", offset, chance.randbytes(4096))
    both.old.forget_sent()
    (both.world.folder / "alice/run/xenhelper/crash-at").unlink(missing_ok=True)
    if both.intents() or not both.world.drbd("alice"):
        done = both.run("root@old", "--vm", "web1")
        assert done.returncode == 0, done.stderr
        both.check_whole((both.old.root / ROOT[1:]).read_bytes())


def test_a_cut_copy_says_so_and_only_the_rest_is_sent(both: Both) -> None:
    both.old.plan("6 cut")
    cut = both.run("root@old", "--vm", "web1")
    assert cut.returncode == 1
    last = cut.stderr.strip().splitlines()[-1]
    assert last == (
        "xenhelper: old: dd: error reading: Input/output error; the same command again goes on where it was"
    )
    assert both.intents() == ["import-web1"]
    assert not (both.world.folder / "alice" / CONFIG[1:]).exists()
    status = both.world.run("alice", "cli", "status")
    assert "xenhelper import root@old --vm web1" in status.stdout and "--undo web1" in status.stdout
    both.old.forget_sent()
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()
    assert both.old.sent() == [*(f"{ROOT} {at}" for at in range(5, 8)), *(f"{SWAP} {at}" for at in range(4))]


def test_a_stalled_copy_ends_in_time(both: Both) -> None:
    both.old.plan("3 stall")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 1 and "nothing came from old for 2 s; the same command" in done.stderr


def test_what_was_written_there_in_between_comes_too(both: Both) -> None:
    both.old.plan("9 cut")
    both.run("root@old", "--vm", "web1")
    both.old.forget_sent()
    # the VM ran for a while
    both.old.edit("oldvg/web1-root", 3 * MIB + 5, b"now it isn't zero")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    changed = bytearray(ROOT_DATA)
    changed[3 * MIB + 5 : 3 * MIB + 22] = b"now it isn't zero"
    both.check_whole(bytes(changed))
    # eight are summed up, one is sent, and the four of the other disk
    assert both.old.sent().count(f"{ROOT} 3") == 2 and len(both.old.sent()) == 8 + 1 + 4


def test_a_write_in_the_middle_is_followed(both: Both) -> None:
    both.old.plan(f"7 write {ROOT} 100")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole(ROOT_DATA[:100] + b"late" + ROOT_DATA[104:])


def test_started_in_the_middle_it_is_refused_at_the_end(both: Both) -> None:
    both.old.plan("5 start")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 3 and "web1 runs on old (as web1); `xl shutdown -w web1` there" in done.stderr
    assert not (both.world.folder / "alice" / CONFIG[1:]).exists()
    both.old.change(domains=[])
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()


def test_a_kernel_that_numbers_no_disks_is_read_twice(both: Both) -> None:
    both.old.change(numbered=False)
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()
    assert len(both.old.sent()) == CHUNKS + 8, "the image has its times, the volume nothing"


def test_a_disk_here_that_forgets_is_found(both: Both) -> None:
    arm(both, "after importing.sums:Sums.note:statefile.write_at 12")
    both.run("root@old", "--vm", "web1")
    path = both.world.folder / "alice/dev/vg0/web1-root"
    with path.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"not what was written")
        file.seek(len(ROOT_DATA))
    both.old.forget_sent()
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()
    assert both.old.sent() == [f"{ROOT} 4"]


def test_nothing_starts_from_half_a_disk_and_it_can_be_given_up(both: Both) -> None:
    both.old.plan("4 cut")
    both.run("root@old", "--vm", "web1")
    both.world.write("alice", "etc/xen/early.cfg", "name='web1'\ndisk=['phy:/dev/vg0/web1-root,xvda,w']\n")
    refused = both.world.run("alice", "create", "/etc/xen/early.cfg")
    assert refused.returncode == 3 and "isn't whole yet: the import of web1" in refused.stderr
    other = both.run("root@old:/etc/xen/other.cfg")
    assert other.returncode == 3, other.stderr
    dry = both.run("--undo", "web1", "--dry-run")
    assert dry.returncode == 0 and "would: remove /dev/vg0/web1-root" in dry.stdout
    assert set(both.world.volumes("alice")) == {"vg0/web1-root", "vg0/web1-xvdb"}
    undone = both.run("--undo", "web1")
    assert undone.returncode == 0, undone.stderr
    assert both.world.volumes("alice") == {} and both.intents() == []
    assert both.run("--undo", "web1").returncode == 2
    (both.world.folder / "alice/etc/xen/early.cfg").unlink()
    both.old.forget_sent()
    assert both.run("root@old", "--vm", "web1").returncode == 0
    both.check_whole()


def test_the_config_is_fitted_to_this_host(both: Both) -> None:
    text = TEXT.replace("xenbr0", "eth0").replace(
        "memory", "bootloader = '/usr/lib/xen-4.4/bin/pygrub'\nmemory"
    )
    text = (
        text.replace("'/boot/vmlinuz'", "'/boot/vmlinuz-4.9'")
        .replace("'file:", "'tap:aio:")
        .replace(f"tap:aio:{SWAP},xvdb,w", f"format=raw,backendtype=qdisk,vdev=xvdb,access=rw,target={SWAP}")
    )
    both.old.file(CONFIG, text.encode())
    dry = both.run("root@old", "--vm", "web1", "--dry-run")
    assert "this host has no bridge eth0: make it, or --bridge eth0=NAME (here: xenbr0)" in dry.stdout
    assert "this host has no /boot/vmlinuz-4.9" in dry.stdout
    done = both.run("root@old", "--vm", "web1", "--bridge", "eth0=xenbr0")
    assert done.returncode == 0, done.stderr
    assert "bootloader /usr/lib/xen-4.4/bin/pygrub becomes pygrub" in done.stdout
    config = both.world.read("alice", CONFIG)
    assert "bootloader = 'pygrub'" in config and "bridge=xenbr0" in config and "bridge=eth0" not in config
    assert "# The disks as they came from old" in config and "target=/dev/vg0/web1-xvdb'" in config
    assert config.count("script=block-xenhelper") == 2


def refusals() -> list[Any]:
    return [
        pytest.param("off", 1, "no ssh to root@old: ssh: connect to host old", id="off"),
        pytest.param("process", 3, f"old:{SWAP} is in use there: process 71 (qemu)", id="process"),
        pytest.param("no vm", 2, "old has no config in /etc/xen for VM db1", id="no vm"),
        pytest.param(
            "volume here", 3, "/dev/vg0/web1-root exists, and this import didn't make it", id="volume"
        ),
        pytest.param("config here", 3, f"{CONFIG} exists, and this import didn't make it", id="config"),
        pytest.param("volume there", 3, "bob has a volume /dev/vg0/web1-root already", id="peer's volume"),
        pytest.param("config there", 3, f"bob has a file {CONFIG} already", id="peer's config"),
        pytest.param("room", 3, "volume group vg0 on alice has 8 MiB free", id="room"),
        pytest.param("peer off", 1, "bob gave no answer", id="peer off"),
        pytest.param("runs here", 3, "a domain web1 runs on this host", id="runs here"),
        pytest.param("ours", 3, "that xenhelper replicates there", id="ours"),
        pytest.param("odd name", 2, "holds characters that can't be kept", id="odd name"),
    ]


@pytest.mark.parametrize(("case", "status", "words"), refusals())
def test_each_refusal_is_one_line_and_changes_nothing(both: Both, case: str, status: int, words: str) -> None:
    old, world, typed = both.old, both.world, ["root@old", "--vm", "web1"]
    if case == "off":
        (world.folder / "old.off").touch()
    elif case == "process":
        old.change(users={SWAP: [71, "qemu"]})
    elif case == "no vm":
        typed = ["old", "--vm", "db1"]
    elif case == "volume here":
        world.lvm("alice", {"vg0": 16 * GIB}, {"vg0/web1-root": GIB})
    elif case == "config here":
        world.write("alice", CONFIG, "name='web1'\n")
    elif case == "volume there":
        world.lvm("bob", {"vg0": 16 * GIB}, {"vg0/web1-root": GIB})
    elif case == "config there":
        world.write("bob", CONFIG, "name='web1'\n")
    elif case == "room":
        world.lvm("alice", {"vg0": 8 * MIB}, {})
    elif case == "peer off":
        (world.folder / "bob.off").touch()
    elif case == "runs here":
        (world.folder / "alice.domains").write_text("web1")
    elif case == "ours":
        block = "\n# >>> xenhelper: VM web1, x\n# checksum 0123456789abcdef\ndisk = []\n# <<< xenhelper\n"
        old.file(CONFIG, (TEXT + block).encode())
    elif case == "odd name":
        typed = ["old:/dev/oldvg/web1'; reboot; '"]
    before = world.files("alice"), world.files("bob"), world.volumes("alice"), world.volumes("bob")
    done = both.run(*typed)
    assert done.returncode == status, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("xenhelper: ") and words in last
    assert (world.files("alice"), world.files("bob"), world.volumes("alice"), world.volumes("bob")) == before
    assert both.old.sent() == []


def test_begun_otherwise_it_isnt_gone_on_with(both: Both) -> None:
    both.old.plan("4 cut")
    both.run("root@old", "--vm", "web1")
    both.old.file(SWAP, SWAP_DATA + bytes(512))
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 3 and "has another size than when its import was begun" in done.stderr
    both.old.file(CONFIG, TEXT.replace(f", 'file:{SWAP},xvdb,w'", "").encode())
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 3 and "web1 has other disks on old" in done.stderr
    assert json.loads((both.world.folder / "alice.lvm.json").read_text())["volumes"].keys() == {
        "vg0/web1-root", "vg0/web1-xvdb",
    }  # fmt: skip


def test_a_peer_that_goes_away_at_the_end_takes_nothing_along(both: Both) -> None:
    armed = arm(both, "stop-before importing.story:_place:volumes.change_tags")
    process = both.world.start("alice", "cli", "import", "root@old", "--vm", "web1")
    held = Path(f"{armed}.held")
    end = time.monotonic() + 120
    while not held.exists() and time.monotonic() < end:
        time.sleep(0.05)
    second = both.run("root@old", "--vm", "web1")
    assert second.returncode == 3 and "web1: another change is under way (import, pid " in second.stderr
    (both.world.folder / "bob.off").touch()
    os.kill(int(held.read_text().split()[0]), signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "web1 is here, whole" in out and "bob gave no answer" in err
    (both.world.folder / "bob.off").unlink()
    (both.world.folder / "old.off").touch()  # nothing is needed of the old server any more
    refused = both.run("--undo", "web1")
    assert refused.returncode == 3 and "is here, whole" in refused.stderr
    # a create comes first, and replicates it
    created = both.world.run("alice", "create", CONFIG)
    assert created.returncode == 0, created.stderr
    (both.world.folder / "alice.domains").write_text("web1")
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()


@pytest.mark.parametrize("old_lvm", [False, True])
def test_a_thin_volume_is_thin_here_where_a_pool_of_that_name_is(both: Both, old_lvm: bool) -> None:
    """``old_lvm``: one of before thin volumes says nothing of pools."""
    volumes = both.old.state()["volumes"]
    thin = {**volumes["oldvg/web1-root"], "pool": "tp", "filled": "25.00"}
    both.old.change(volumes={**volumes, "oldvg/web1-root": thin}, old_lvm=old_lvm)
    for host in ("alice", "bob"):
        both.world.pool(host, "vg0/tp", 64 * MIB)
    dry = both.run("root@old", "--vm", "web1", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert ("thin, in pool vg0/tp" in dry.stdout) is not old_lvm
    done = both.run("root@old", "--vm", "web1")
    assert done.returncode == 0, done.stderr
    both.check_whole()
    for host in ("alice", "bob"):
        assert both.world.volumes(host)["vg0/web1-root"].get("pool", "") == ("" if old_lvm else "tp")
