"""Read-ahead and stride against the formula, and nonsense that must stay sane."""

from pathlib import Path

import pytest

from xenhelper import paths
from xenhelper.tuning import blockdev, topology
from xenhelper.tuning.topology import Stripes


@pytest.mark.parametrize(
    ("level", "members", "chunk", "layout", "data_disks"),
    [
        ("raid0", 4, 512, 0, 4),
        ("raid5", 4, 512, 2, 3),
        ("raid4", 3, 64, 0, 2),
        ("raid6", 6, 512, 2, 4),
        ("raid10", 4, 512, 0x102, 2),  # two near copies
        ("raid10", 6, 512, 0x103, 2),  # three near copies
        ("raid10", 4, 512, 0x201, 4),  # two far copies: all disks are read in turn
        ("raid10", 3, 512, 0x102, 3),  # copies that don't divide the members (raid10_nr_stripes())
    ],
)
def test_md_counts_data_disks_as_the_kernel_does(
    level: str, members: int, chunk: int, layout: int, data_disks: int
) -> None:
    found = topology.md(level, members, chunk, layout, "md0")
    assert found is not None
    assert (found.data_disks, found.chunk_kib) == (data_disks, chunk)
    assert "md0" in found.text


@pytest.mark.parametrize(
    ("level", "members", "chunk"),
    [
        ("raid1", 2, 0),
        ("raid1", 2, 64),
        ("linear", 3, 64),
        ("container", 0, 0),
        ("", 0, 0),
        ("raid5", 1, 512),
        ("raid6", 2, 512),
        ("raid5", 4, 0),
        ("raid0", 5000, 512),
        ("raid0", 4, 1 << 30),
        ("raid0", -1, 512),
    ],
)
def test_md_without_stripes_or_with_numbers_that_no_array_has(level: str, members: int, chunk: int) -> None:
    assert topology.md(level, members, chunk) is None
    assert topology.read_ahead_kib(topology.md(level, members, chunk), True) == 4096


@pytest.mark.parametrize(
    ("chunk", "disks", "kib"),
    [(64, 2, 1024), (128, 4, 1024), (256, 3, 1536), (512, 3, 3072), (512, 4, 4096), (1024, 8, 4096)],
)
def test_read_ahead_is_two_stripes_within_bounds(chunk: int, disks: int, kib: int) -> None:
    assert topology.read_ahead_kib(Stripes(chunk, disks), True) == kib
    assert topology.read_ahead_kib(Stripes(chunk, disks), False) == 4096, "SSD"


def test_lvm_stripes_over_plain_disks_and_over_arrays() -> None:
    assert topology.lvm(3, 64, None) == Stripes(64, 3, "LVM stripes: 3, 64 KiB")
    raid5 = topology.md("raid5", 4, 512, 2, "md0")
    over = topology.lvm(2, 64, raid5)
    assert over is not None and over.width_kib == 2 * 3 * 512
    coarse = topology.lvm(2, 4096, Stripes(64, 2))
    assert coarse is not None and coarse.width_kib == 2 * 4096
    assert topology.lvm(1, 64, raid5) is raid5
    assert topology.lvm(0, 0, None) is None


def test_ext4_geometry_is_in_blocks() -> None:
    assert topology.ext4(Stripes(512, 3)) == (128, 384)
    assert topology.ext4(Stripes(64, 2), block_kib=1) == (64, 128)
    assert topology.ext4(None) is None
    assert topology.ext4(Stripes(6, 2)) is None, "a chunk that no whole number of blocks fills"
    assert topology.ext4(Stripes(1 << 20, 2)) is None, "more than the superblock can hold"


# `dmsetup table` of a host with a linear, a striped, a RAID and a thin volume
TABLES = """\
vg0-linear: 0 65536 linear 9:0 2048
vg0-linear: 65536 8192 linear 8:1 2048
vg0-striped: 0 131072 striped 2 128 9:0 2048 9:1 2048
vg0-r5: 0 131072 raid raid5_ls 3 128 region_size 1024 3 253:10 253:11 253:12 253:13 253:14 253:15
vg0-r1: 0 131072 raid raid1 3 0 region_size 1024 2 253:10 253:11 253:12 253:13
vg0-r10: 0 131072 raid raid10 7 128 region_size 1024 raid10_copies 2 raid10_format near 4 - 8:1 - 8:1 - 8:1 -
vg0-pool: 0 65536 thin-pool 253:20 253:5 128 0 0
vg0-thin: 0 65536 thin 253:30 1
vg0-slow: 0 65536 delay 9:0 0 2
weird
"""
MD = {
    "9:0": ("md0", "raid5", "4 (3)", "524288 (65536)", "2"),
    "9:1": ("md1", "raid1", "2", "0", "0"),
    "9:2": ("md2", "raid10", "4", "524288", "258"),
}
DM = {"253:0": "vg0-linear", "253:1": "vg0-striped", "253:2": "vg0-r5", "253:3": "vg0-r1"}
DM |= {"253:4": "vg0-r10", "253:30": "vg0-pool", "253:31": "vg0-thin", "253:5": "vg0-striped"}
DM |= {"253:6": "vg0-slow"}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    devices, numbers = tmp_path / "sys/devices", tmp_path / "sys/dev/block"
    numbers.mkdir(parents=True)

    def device(number: str, name: str) -> Path:
        folder = devices / name
        (folder / "queue").mkdir(parents=True)
        (folder / "queue/rotational").write_text("1\n")
        (folder / "dev").write_text(number + "\n")
        (numbers / number).symlink_to(folder)
        return folder

    for number, (name, level, disks, chunk, layout) in MD.items():
        folder = device(number, name)
        (folder / "md").mkdir()
        for key, value in (
            ("level", level),
            ("raid_disks", disks),
            ("chunk_size", chunk),
            ("layout", layout),
        ):
            (folder / "md" / key).write_text(value + "\n")
    for number, name in DM.items():
        folder = device(number, "dm-" + number.split(":")[1])
        (folder / "dm").mkdir()
        (folder / "dm/name").write_text(name + "\n")
    whole = device("8:0", "sda")
    part = whole / "sda1"
    part.mkdir()
    (part / "partition").write_text("1\n")
    (numbers / "8:1").symlink_to(part)
    return tmp_path


def of(number: str, monkeypatch: pytest.MonkeyPatch) -> blockdev.Geometry:
    major, minor = (int(part) for part in number.split(":"))
    monkeypatch.setattr(blockdev.volumes, "device_of", lambda path: (major, minor))
    return blockdev.of("/dev/x", blockdev.parse_tables(TABLES))


@pytest.mark.parametrize(
    ("number", "width", "read_ahead"),
    [
        ("9:0", 3 * 512, 3072),  # the array itself; a reshape shows two numbers
        ("253:0", 3 * 512, 3072),  # linear over it and a partition: the part that needs more
        ("253:1", 2 * 3 * 512, 4096),  # striped over a raid5 and a raid1: as if both were like the wider
        ("253:2", 2 * 64, 1024),  # LVM's own raid5
        ("253:3", 0, 4096),
        ("253:4", 2 * 64, 1024),
        ("253:31", 2 * 3 * 512, 4096),  # thin: what its pool's data lies on
        ("253:6", 3 * 512, 3072),
        ("8:1", 0, 4096),
        ("7:7", 0, 4096),  # no such device
    ],
)
def test_a_volume_is_followed_down_to_its_disks(
    host: Path, monkeypatch: pytest.MonkeyPatch, number: str, width: int, read_ahead: int
) -> None:
    found = of(number, monkeypatch)
    assert (found.stripes.width_kib if found.stripes else 0) == width, found
    assert found.read_ahead_kib == read_ahead


def test_an_ssd_is_known_by_its_disk(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "sys/devices/sda/queue/rotational").write_text("0\n")
    assert of("8:1", monkeypatch) == blockdev.Geometry(None, False)


def test_a_table_that_leads_to_itself_ends(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev.volumes, "device_of", lambda path: (253, 0))
    loop = blockdev.parse_tables("vg0-linear: 0 65536 linear 253:0 0\n")
    assert blockdev.of("/dev/x", loop).stripes is None
