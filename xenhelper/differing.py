"""Where the two copies of a disk differ, as a verify of the last hour has found."""

from xenhelper import insync, paths, statefile
from xenhelper.errors import XenhelperError

FRESH = 3600.0
MAX_PLACES = 5


def where(resource: str, now: float) -> str:
    """``, at byte 65536+4096``: for the end of a line; '' when nothing is known. ``now`` in
    seconds since 1970."""
    try:
        record = statefile.read(f"{paths.STATE}/verify/{resource}") or {}
    except XenhelperError:
        return ""
    until = insync.seconds(record.get("until", ""))
    ranges = [item for item in record.get("ranges", "").split(",") if item]
    if until is None or not 0 <= now - until < FRESH or not ranges:
        return ""
    more = max(0, len(ranges) - MAX_PLACES)
    more += int(record["more"]) if record.get("more", "").isdecimal() else 0
    return f", at byte {', '.join(ranges[:MAX_PLACES])}" + (f" and {more} more" if more else "")
