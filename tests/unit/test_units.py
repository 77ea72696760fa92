"""Sizes as people read them."""

from xenhelper import units


def test_a_small_volume_is_not_nothing() -> None:
    assert units.size(96 << 20) == "96 MiB"
    assert units.size((1 << 30) - (1 << 20)) == "1023 MiB"
    assert units.size(0) == "0 MiB"
    assert units.size(33 << 19) == "16.5 MiB"


def test_from_one_gib_on_it_is_gib() -> None:
    assert units.size(1 << 30) == "1.0 GiB"
    assert units.size(2200 << 30) == "2200.0 GiB"
