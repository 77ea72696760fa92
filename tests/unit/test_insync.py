"""When disks were last in sync: the times as they stand in records."""

import calendar
import random
import time

import pytest

from xenhelper import insync


def test_a_stamp_is_read_back_to_the_second() -> None:
    order = random.Random(1)
    edges = [0, 951782399, 951782400, 951868800, 4107542399, 4107542400, 253402300799]
    for when in [*edges, *(order.randrange(0, 7258118400) for _ in range(20000))]:
        text = insync.stamp(when)
        assert insync.seconds(text) == when == calendar.timegm(time.strptime(text, insync.FORM)), text


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-02-29T00:00:00Z",
        "2026-01-32T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00", "-026-01-01T00:00:00Z",
        "2026-01-01T00:00:-1Z", "\u0662026-01-01T00:00:00Z", "0000-01-01T00:00:00Z0",
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(text: str) -> None:
    assert insync.seconds(text) is None
