"""Resync settings: from link and memory, to a resource file and back."""

import pytest

from xenhelper.drbd import knobs, resfile
from xenhelper.drbd.knobs import DISK, NET, Knobs, for_link
from xenhelper.tuning import link

MIB = 1024


def test_an_unknown_link_gets_the_defaults_and_a_small_dom0_fewer_buffers() -> None:
    assert for_link(0, 0) == Knobs()
    assert for_link(0, 4096) == Knobs()
    assert for_link(0, 300).max_buffers == 4800 == for_link(0, 300).max_epoch_size
    assert for_link(0, 64).max_buffers == 2048, "DRBD's own default is the floor"


def test_one_and_ten_gigabit() -> None:
    one, ten = for_link(1000, 4096), for_link(10_000, 4096)
    assert one.c_max_rate == 107 * MIB and one.c_min_rate == 35 * MIB
    assert 700 * MIB <= ten.c_max_rate <= 720 * MIB and ten.c_plan_ahead == 10
    assert (one.c_fill_target, ten.c_fill_target) == (256, 1220)
    assert one.al_extents == ten.al_extents == 6433


@pytest.mark.parametrize("speed", [10, 100, 1000, 2500, 10_000, 25_000, 100_000, 400_000, 999_999])
def test_every_link_stays_within_drbds_limits_and_its_own_speed(speed: int) -> None:
    made = for_link(speed, 2048)
    assert knobs.checked(made.to_json()) == made
    assert made.c_min_rate < made.c_max_rate <= speed * 1_000_000 // 8 // 1024


def test_a_faster_link_never_gets_less() -> None:
    rates = [for_link(speed, 4096).c_max_rate for speed in (10, 100, 1000, 1500, 2500, 5000, 10_000, 40_000)]
    assert rates == sorted(rates)


def test_flushes_are_never_touched() -> None:
    text = "\n".join((*knobs.render(Knobs(), DISK), *knobs.render(Knobs(), NET), *resfile._DISK))
    assert "flush" not in text and "barrier" not in text


def entry(name: str, made: Knobs) -> resfile.Entry:
    ends = (
        resfile.End("alice", "10.99.0.1", "/dev/vg0/a", "/dev/vg0/a_xhmeta"),
        resfile.End("bob", "10.99.0.2", "/dev/vg0/a", "/dev/vg0/a_xhmeta"),
    )
    return resfile.Entry(name, 1000, 7800, "ab" * 16, ends, "A", made)


def test_a_resource_file_gives_back_what_was_put_in() -> None:
    one, ten = for_link(1000, 1024), for_link(10_000, 300)
    text = resfile.render("web1", [entry("web1-xvda", one), entry("web1-xvdb", ten)])
    assert resfile.knobs(text) == {"web1-xvda": one, "web1-xvdb": ten}
    assert "c-max-rate 107M;" in text and "c-fill-target 1220k;" in text
    # what is put in later gives the bytes that a new file would have
    again = resfile.with_knobs(text, one)
    assert again == resfile.render("web1", [entry("web1-xvda", one), entry("web1-xvdb", one)])
    assert resfile.secrets(again) == resfile.secrets(text)


@pytest.mark.parametrize(
    "values",
    [
        {"c_max_rate": "720M"},
        {"c_max_rate": True},
        {"max_buffers": 1 << 30},
        {"al_extents": 0},
        {"disk_flushes": 0},
    ],
)
def test_values_from_a_peer_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        knobs.checked(values)


def test_the_lesser_host_decides_and_an_unknown_speed_doesnt() -> None:
    here, there = {"speed": 10_000, "memory": 4096}, {"speed": 1000, "memory": 300}
    assert link.for_pair(here, there) == for_link(1000, 300)
    assert link.for_pair(here, {"speed": 0, "memory": 4096}) == for_link(10_000, 4096)
    assert link.for_pair({}, {"speed": "fast"}) == Knobs()
