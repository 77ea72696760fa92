"""What vgs and lvs say, and which volumes may be zeroed and removed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenhelper import paths, volumes
from xenhelper.errors import XenhelperError
from xenhelper.volumes import Volume

CAPTURED = Path(__file__).parent / "captured"


def captured(name: str) -> str:
    return (CAPTURED / f"{name}.txt").read_text()


def test_groups_are_read_from_vgs_and_from_lvs() -> None:
    report = json.loads(captured("vgs-report"))
    text = json.dumps(report)
    found = volumes.parse_groups(text)
    assert found["vg1"] == volumes.Group("vg1", 62914560, 62914560, 4194304)
    for row in report["report"][0]["vg"]:
        row.update(lv_name="x")
    as_lvs = json.dumps({"report": [{"lv": report["report"][0]["vg"]}]})
    assert volumes.parse_groups(as_lvs) == found


def test_volumes_are_read_with_tags_and_open_state() -> None:
    report = json.loads(captured("lvs-report"))
    for at, row in enumerate(report["report"][0]["lv"]):
        row.update(lv_kernel_major="254", lv_kernel_minor=str(at))
    first = report["report"][0]["lv"][0]
    first.update(lv_attr="-wi-ao----", lv_tags="a,xenhelper.vm=web1")
    report["report"][0]["lv"][1].update(lv_kernel_major="-1", lv_kernel_minor="-1")
    found = volumes.parse_volumes(json.dumps(report))
    assert found[0] == Volume("vg0", "web1-root", 67108864, ("a", "xenhelper.vm=web1"), True, (254, 0))
    assert found[0].tag("vm") == "web1" and found[0].tag("resource") == ""
    assert found[1].device is None and not found[1].open


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"report": [{"lv": [3]}]}'])
def test_a_garbled_lvm_report_is_one_plain_error(text: str) -> None:
    with pytest.raises(XenhelperError, match="LVM's report"):
        volumes.parse_volumes(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/vg0/web1", ("vg0", "web1")),
        ("/dev/mapper/vg0-web1", ("vg0", "web1")),
        ("/dev/mapper/vg--0-web1--root", ("vg-0", "web1-root")),
        ("/dev/mapper/a---b", ("a-", "b")),
        ("/dev/mapper/vg0", None),
        ("/dev/mapper/a-b-c", None),
        ("/dev/vg0/-x", None),
        ("/dev/vg0/x y", None),
        ("/dev/vg0/..", None),
        ("/dev/sda1", None),
        ("vg0/web1", None),
        ("/tmp/vg0/web1", None),
    ],
)
def test_paths_name_volumes(path: str, expected: tuple[str, str] | None) -> None:
    assert volumes.split_path(path) == expected


lvm_names = st.from_regex(r"[a-z0-9_+.][a-z0-9_+.-]{0,12}", fullmatch=True).filter(volumes.valid_name)


@given(lvm_names, lvm_names)
def test_mapper_names_come_apart_as_device_mapper_joined_them(group: str, name: str) -> None:
    mapped = f"/dev/mapper/{group.replace('-', '--')}-{name.replace('-', '--')}"
    assert volumes.split_path(mapped) == (group, name)


@given(st.integers(1, 1 << 50), st.sampled_from([1 << 10, 1 << 12, 4 << 20, 32 << 20]))
def test_metadata_always_has_room(size: int, extent: int) -> None:
    got = volumes.meta_bytes(size, extent)
    assert got % extent == 0
    assert got >= 36 * 1024 + 32 * 1024 * size / 2**30
    assert got >= 1 << 20  # less than that DRBD 8.4 doesn't attach


def test_only_proven_volumes_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(volumes, "run", lambda argv, **_: ran.append(argv))
    volume = Volume("vg0", "web1", 1, ("xenhelper.run=1",))
    for required in ((), ("xenhelper.run=2",), ("xenhelper.run=1", "xenhelper.vm=web1")):
        with pytest.raises(XenhelperError, match="isn't removed"):
            volumes.remove(volume, *required)
    assert not ran
    volumes.remove(volume, "xenhelper.run=1")
    assert ran == [["lvremove", "--yes", "vg0/web1"]]


def test_only_metadata_volumes_are_zeroed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", str(tmp_path))
    for name in ("web1", "web1_xhmeta"):
        (tmp_path / name).write_bytes(b"x" * 3000)
    with pytest.raises(XenhelperError):
        volumes.zero_start("/web1")
    volumes.zero_start("/web1_xhmeta", 2000)
    assert (tmp_path / "web1").read_bytes() == b"x" * 3000
    assert (tmp_path / "web1_xhmeta").read_bytes() == bytes(2000) + b"x" * 1000
