"""What an import looks at, plans and shows, one by one."""

import os
import random
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_import import CONFIG, MIB, ROOT, SWAP
from xenhelper import progress
from xenhelper.errors import Refused, UsageError, XenhelperError
from xenhelper.importing import copy, far, look, mend, plan
from xenhelper.xen import vmconfig

LV = look.Thing(ROOT, look.BLOCK, 8 * MIB, "oldvg/web1-root", "", "b0 253:0 7 0 0")
IMG = look.Thing(SWAP, look.FILE, 4 * MIB, "", "", "1 2 3")
SEEN = look.Seen("old", ("Domain-0", "web10", "web1-b"), True, (), (LV, IMG))
WANTED = [("xvda", ROOT), ("xvdb", SWAP)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"domains": ("web1--migratedaway",)}, "web1 runs on old .as web1--migratedaway."),
        ({"listed": False}, "its `xl list` fails"),
        ({"things": (replace(LV, used="somebody"), IMG)}, f"old:{ROOT} is in use there: somebody"),
        ({"things": (LV, replace(IMG, kind=look.GONE))}, f"old has no {SWAP} .disk xvdb."),
        ({"things": (replace(LV, volume=""), IMG)}, "is no LVM volume"),
        ({"things": (LV, replace(IMG, size=4097))}, "has 4097 bytes"),
    ],
)
def test_the_vm_is_off_and_its_disks_are_nobodys(change: dict[str, Any], words: str) -> None:
    plan.check_there("web1", SEEN, WANTED, "old")
    with pytest.raises(Refused, match=words):
        plan.check_there("web1", replace(SEEN, **change), WANTED, "old")


def parsed(*disks: dict[str, Any]) -> vmconfig.Parsed:
    return vmconfig.Parsed("web1", disks, {"c_info": {"name": "web1"}})


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (
            {"pdev_path": "/srv/x", "vdev": "xvdb", "format": "qcow2"},
            "qemu-img convert -O raw /srv/x /srv/x.raw",
        ),
        ({"pdev_path": "iqn=x", "vdev": "xvdb", "script": "block-iscsi"}, "by the script block-iscsi"),
        ({"pdev_path": "/dev/a/b", "vdev": "xvdb", "backend_domname": "storage"}, "by domain storage"),
        ({"pdev_path": ROOT, "vdev": "xvdb"}, "one volume as two disks"),
        ({"pdev_path": "/dev/a/b", "vdev": "../x"}, "such a vdev"),
    ],
)
def test_a_disk_that_cant_be_copied_is_named(disk: dict[str, Any], words: str) -> None:
    first = {"pdev_path": ROOT, "vdev": "xvda", "format": "raw"}
    disc = {"pdev_path": "/srv/d.iso", "vdev": "hdc", "is_cdrom": 1, "format": "raw"}
    assert plan.disks(parsed(first, disc)) == [("xvda", ROOT)]
    with pytest.raises(Refused, match=words):
        plan.disks(parsed(first, disk))
    with pytest.raises(Refused, match="has no disk"):
        plan.disks(parsed(disc))


@pytest.mark.parametrize(
    "path",
    [
        "web1",
        "/dev/a/../b",
        "//x",
        "/a\nb",
        "/a'b",
        '/a"b',
        "/a,b",
        "/a*",
        "/ä",
        "/" + "a" * 1000,
        "",
        "/a/",
        "/\x1b",
    ],
)
def test_a_path_that_cant_be_kept_goes_nowhere(path: str) -> None:
    with pytest.raises(UsageError):
        far.check_path(path)


def test_what_is_typed_is_read() -> None:
    assert far.check_path("/srv/my disk (1)$x;&.img") and far.split("root@old:/dev/a/b") == (
        "root@old",
        "/dev/a/b",
    )
    assert plan.limit("") == 0 and plan.limit("50M") == 50 * MIB and plan.limit("1.5G") == 3 << 29
    assert plan.limit("7") == 7 * MIB and plan.bridges(["a=b", "eth0=xenbr0"]) == {"a": "b", "eth0": "xenbr0"}
    for text in ("fast", "0", "-5M", "5T"):
        with pytest.raises(UsageError):
            plan.limit(text)
    for text in ("eth0", "=x", "a=b c", "a='"):
        with pytest.raises(UsageError):
            plan.bridges([text])
    assert plan.group_for("vg0", "", ("vg0", "vg1")) == "vg0" and plan.group_for("x", "", ("vg0",)) == "vg0"
    assert plan.group_for("vg0", "vg5", ("vg0",)) == "vg5"
    with pytest.raises(UsageError, match="vg0, vg1"):
        plan.group_for("x", "", ("vg0", "vg1"))
    assert plan.whole(5 * MIB, [4 * MIB, 6 * MIB]) == 12 * MIB
    plan.check_asked("web1", [], WANTED)
    with pytest.raises(Refused, match=f"one more disk there, {SWAP}"):
        plan.check_asked("web1", [ROOT], WANTED)


def test_volumes_keep_their_names_unless_two_have_one() -> None:
    assert plan.volume_names("web1", SEEN, WANTED) == {"xvda": "web1-root", "xvdb": "web1-xvdb"}
    other = replace(LV, path="/dev/vg2/web1-root", volume="vg2/web1-root")
    both = replace(SEEN, things=(LV, other))
    names = plan.volume_names("web1", both, [("xvda", ROOT), ("xvdb", other.path)])
    assert names == {"xvda": "web1-xvda", "xvdb": "web1-xvdb"}


def test_the_look_at_a_server_is_read_or_refused() -> None:
    """As this very machine answers, without Xen; and what no server says."""
    with tempfile.NamedTemporaryFile() as file, tempfile.NamedTemporaryFile(delete=False) as free:
        for each in (file, free):
            each.write(b"x" * 1024)
            each.flush()
        free.close()
        argv = ["sh", "-c", far.LOOK_AT, "far", file.name, "/no/such/thing", free.name]
        done = subprocess.run(
            argv, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C"}
        )
        seen = look.parse(done.stdout, argv[4:])
        os.unlink(free.name)
    here, gone, nobodys = seen.things
    assert (nobodys.kind, nobodys.used) == (look.FILE, "")
    assert seen.host == os.uname().nodename and seen.listed
    assert (here.kind, here.size, gone.kind) == (look.FILE, 1024, look.GONE)
    assert here.used.startswith(f"process {os.getpid()} (") and len(here.mark.split()) == 9
    for text in (
        "",
        "host old\n",
        "host old\nboot b\nblock 0 253:0\n",
        "host o'd\nboot b\n",
        "host a\nboot b\nlv x\n",
    ):
        with pytest.raises(XenhelperError, match="can't be read"):
            look.parse(text, ["/x"])
    counters = "100 0 800 5 3 0 24 5 0 9 9 2 0 16 0 0 0"
    text = f"host old\nboot b\nlv vg|web1|512|-wi-a-----|253|4\nblock 0 253:4 512\nmark 0 9 1 {counters}\n"
    assert look.parse(text, ["/x"]).things == (
        look.Thing("/x", look.BLOCK, 512, "vg/web1", "", "b 253:4 9 3 24 2 16"),
    )
    for old, new in (("mark 0 9 1", "mark 0 - 1"), ("mark 0 9 1", "mark 0 9 0")):
        assert look.parse(text.replace(old, new), ["/x"]).things[0].mark == ""
    assert look.parse(text.replace("-wi-a-", "-wi-ao"), ["/x"]).things[0].used.startswith("somebody")


def test_an_argument_is_one_whatever_it_holds(tmp_path: Path) -> None:
    """Through a login shell and the script's own."""
    odd = "/a b'; touch HERE; $(touch HERE) `touch HERE` \\ \" &"
    line = far.command('printf "%s" "$1"', odd)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == odd and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(5))
def test_what_is_put_is_there_and_zeros_cost_no_write(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = b"".join(
        chance.choice([bytes(size), chance.randbytes(size)])
        for size in (chance.randint(1, 3) * 65536 for _ in range(12))
    ) + chance.choice([b"", b"x" * 512, bytes(512)])
    path = tmp_path / "volume"
    path.write_bytes(b"\xa5" * len(data))
    fd = os.open(path, os.O_RDWR)
    copy.put(fd, 0, data)
    assert path.read_bytes() == data
    os.close(fd)
    # on what reads as zeros, zeros allocate nothing
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(len(data))
    fd = os.open(sparse, os.O_RDWR)
    copy.put(fd, 0, data)
    os.close(fd)
    assert sparse.read_bytes() == data
    full = sum(1 for at in range(0, len(data), 65536) if data[at : at + 65536].strip(b"\0"))
    assert sparse.stat().st_blocks * 512 <= full * 65536 + 8192


def test_the_way_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bar = progress.Progress("web1: copied", 10 * MIB)
    for _ in range(10):
        bar.add(MIB)
    bar.end()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "web1: copied: 10 % of 10 MiB" and len(said) == 10
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    bar = progress.Progress("web1: copied", 10 * MIB, 5 * MIB)
    time.sleep(0.01)
    bar.add(5 * MIB)
    bar.end()
    said = capsys.readouterr().out
    assert said.startswith("\rweb1: copied ########################") and said.endswith("0 s left\x1b[K\n")


def test_a_config_that_would_change_otherwise_isnt_taken() -> None:
    item = plan.Item("xvda", ROOT, look.BLOCK, MIB, "vg0", "web1-root", 4 * MIB)
    made = plan.Plan("0", "web1", "old", CONFIG, CONFIG, (item,))
    assert plan.from_json(made.to_json()) == made
    with pytest.raises(XenhelperError):
        plan.from_json('{"id": 1}')

    def reading(path: str, **more: Any) -> vmconfig.Parsed:
        tree = {"c_info": {"name": "web1"}, "nics": [{"bridge": more.pop("bridge", "eth0")}], "b_info": {}}
        return vmconfig.Parsed("web1", ({"vdev": "xvda", "pdev_path": path, "readwrite": 1, **more},), tree)

    old, words = reading(ROOT, format="raw", backend="qdisk"), {"bridge": {"eth0": "xenbr0"}}
    assert mend.difference(old, reading(item.path, bridge="xenbr0"), made, words) == ""
    for new, said in (
        (reading(item.path), "something besides"),
        (reading(ROOT, bridge="xenbr0"), "not on /dev/vg0"),
        (reading(item.path, bridge="xenbr0", backend="qdisk"), "not on /dev/vg0"),
        (reading(item.path, bridge="xenbr0", removable=1), "another attribute"),
    ):
        assert said in mend.difference(old, new, made, words)
