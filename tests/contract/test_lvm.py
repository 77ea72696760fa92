"""LVM as the product calls it: over the stand-ins of tests/unit/fakes and over real groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xenhelper import volumes
from xenhelper.errors import XenhelperError

from .world import Machine

EXTENT = 4 << 20
TAGS = volumes.tags_for("web9", "web9-xvda", 1009, 7809, "20260101-1")
NAME, PATH = "web9-xvda", "/dev/vg0/web9-xvda"


def found(machine: Machine, name: str = NAME) -> volumes.Volume | None:
    return next((volume for volume in machine.do(volumes.volumes) if volume.name == name), None)


def free(machine: Machine, group: str) -> int:
    return machine.do(volumes.facts, group)[1][group].free


def test_groups_without_a_volume_are_found_when_asked_for(machine: Machine) -> None:
    known, groups = machine.do(volumes.facts, "vg0", "vg1")
    assert known == []
    assert {name: (group.size, group.extent) for name, group in groups.items()} == {
        "vg0": (8585740288, EXTENT),
        "vg1": (62914560, EXTENT),
    }
    assert all(group.free == group.size for group in groups.values())


def test_a_volume_has_its_exact_size_and_tags(machine: Machine) -> None:
    before = free(machine, "vg0")
    machine.do(volumes.create, "vg0", NAME, 3 * EXTENT, TAGS)
    volume = found(machine)
    assert volume is not None
    assert (volume.path, volume.size, volume.open) == (PATH, 3 * EXTENT, False)
    assert set(volume.tags) == set(TAGS)
    assert (volume.tag("resource"), volume.tag("minor"), volume.tag("port")) == ("web9-xvda", "1009", "7809")
    assert volume.device is not None
    assert machine.size_of(PATH) == 3 * EXTENT
    assert free(machine, "vg0") == before - 3 * EXTENT


def test_a_size_between_extents_is_rounded_up_and_told(machine: Machine) -> None:
    with pytest.raises(XenhelperError, match=f"of {2 * EXTENT} bytes instead of {EXTENT + (1 << 20)}"):
        machine.do(volumes.create, "vg0", NAME, EXTENT + (1 << 20), TAGS)


def test_metadata_fits_an_extent(machine: Machine) -> None:
    group = machine.do(volumes.facts, "vg1")[1]["vg1"]
    size = volumes.meta_bytes(64 << 20, group.extent)
    machine.do(volumes.create, "vg1", NAME + volumes.META_SUFFIX, size, TAGS)
    assert machine.size_of(f"/dev/vg1/{NAME}{volumes.META_SUFFIX}") == size == EXTENT


@pytest.mark.parametrize(
    ("group", "extents", "words"),
    [
        ("vg0", 2, ("already exists", NAME)),
        ("nosuch", 1, ("not found", "nosuch")),
        pytest.param("vg1", 16, ("insufficient free space", "vg1"), marks=pytest.mark.core),
    ],
)
def test_what_cant_be_made_is_5_and_leaves_all_as_it_was(
    machine: Machine, group: str, extents: int, words: tuple[str, ...]
) -> None:
    machine.do(volumes.create, "vg0", NAME, EXTENT, TAGS)
    before = machine.do(volumes.facts, "vg0", "vg1")
    error = machine.refuses(volumes.create, group, NAME, extents * EXTENT, TAGS)
    assert error.status == 5
    assert all(word in error.stderr for word in words), error.stderr
    assert machine.do(volumes.facts, "vg0", "vg1") == before


def test_a_group_can_be_filled_to_its_last_extent(machine: Machine) -> None:
    machine.do(volumes.create, "vg1", NAME, 15 * EXTENT, TAGS)
    assert free(machine, "vg1") == 0
    assert machine.refuses(volumes.create, "vg1", "more", EXTENT, TAGS).status == 5


def test_removing_needs_the_makers_tag(machine: Machine) -> None:
    machine.do(volumes.create, "vg0", NAME, EXTENT, TAGS)
    volume = found(machine)
    assert volume is not None
    with pytest.raises(XenhelperError, match="lacks the tag"):
        machine.do(volumes.remove, volume, "xenhelper.run=another")
    assert found(machine) == volume
    machine.do(volumes.remove, volume, TAGS[-1])
    assert found(machine) is None


@pytest.mark.parametrize(
    "command",
    [["lvremove", "--yes"], ["lvchange", "--addtag", "xenhelper.vm=x"]],
    ids=["lvremove", "lvchange"],
)
def test_a_volume_that_is_not_there_is_5(machine: Machine, command: list[str]) -> None:
    result = machine.run([*command, "vg0/nosuch"])
    assert result.status == 5
    assert "Failed to find logical volume" in result.stderr


def test_tags_come_and_go(machine: Machine) -> None:
    machine.do(volumes.create, "vg0", NAME, EXTENT, TAGS)
    machine.do(volumes.change_tags, PATH, ["xenhelper.vm=other"], [TAGS[0], "xenhelper.never=there"])
    volume = found(machine)
    assert volume is not None
    assert set(volume.tags) == {*TAGS[1:], "xenhelper.vm=other"}
    machine.do(volumes.change_tags, PATH, ["xenhelper.vm=other"])  # again is no error
    assert found(machine) == volume


def test_a_volume_in_use_shows_and_stays(machine: Machine) -> None:
    machine.do(volumes.create, "vg0", NAME, EXTENT, TAGS)
    with machine.holding(PATH):
        volume = found(machine)
        assert volume is not None and volume.open
        result = machine.run(["lvremove", "--yes", volume.full_name])
        assert result.status == 5
        assert "in use" in result.stderr
        assert found(machine) == volume
    machine.do(volumes.remove, volume, TAGS[-1])
    assert found(machine) is None


def test_a_snapshot_is_a_volume_of_its_own(machine: Machine) -> None:
    """What recover keeps of the side that is given up: taken while the origin is in use."""
    machine.do(volumes.create, "vg0", NAME, 3 * EXTENT, TAGS)
    origin = found(machine)
    assert origin is not None
    left = free(machine, "vg0")
    with machine.holding(PATH):
        machine.do(volumes.snapshot, origin, "kept", 2 * EXTENT, "xenhelper.discarded=web9-xvda/x")
    kept = found(machine, "kept")
    assert kept is not None
    assert (kept.group, kept.size, kept.tags) == ("vg0", 2 * EXTENT, ("xenhelper.discarded=web9-xvda/x",))
    assert free(machine, "vg0") == left - 2 * EXTENT
    assert (kept.kind, found(machine)) == ("s", replace(origin, kind="o")), "it can't be grown now"
    machine.do(volumes.remove, kept, "xenhelper.discarded=web9-xvda/x")
    assert found(machine, "kept") is None and found(machine) == origin


def test_a_snapshot_without_room_is_5(machine: Machine) -> None:
    machine.do(volumes.create, "vg1", NAME, 14 * EXTENT, TAGS)
    origin = found(machine)
    assert origin is not None
    error = machine.refuses(volumes.snapshot, origin, "kept", 2 * EXTENT, TAGS[0])
    assert error.status == 5
    assert "insufficient free space" in error.stderr
    assert found(machine, "kept") is None


def test_a_name_that_is_free_again_can_be_taken(machine: Machine) -> None:
    for size in (EXTENT, 2 * EXTENT):
        machine.do(volumes.create, "vg0", NAME, size, TAGS)
        volume = found(machine)
        assert volume is not None and volume.size == size
        machine.do(volumes.remove, volume, TAGS[0])
