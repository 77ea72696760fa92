"""Room: for records and resource files, and for a snapshot when a side is given up."""

from xenhelper import units
from xenhelper.doctor.finding import ERROR, HINT, WARNING, Finding
from xenhelper.doctor.pair import Pair

_LOW, _NONE = 0.05, 64 << 20
_SNAPSHOT = 64 << 20  # recover's least


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts."""
    found = []
    for facts in pair.both:
        host = facts.host
        for folder, (free, size) in sorted(facts.space.items()):
            if free >= size * _LOW and free >= _NONE:
                continue
            severity = ERROR if free < _NONE else WARNING
            what = f"{host}: {folder} has {units.size(free)} of {units.size(size)} free"
            do = f"`du -xh {folder} | sort -h | tail`: intents and records must be written before each change"
            found.append(Finding(severity, host, None, what, do))
        for name, group in sorted(facts.groups.items()):
            # a group that was made small isn't one that has filled up
            if group["free"] < _SNAPSHOT and group["free"] < group["size"] * _LOW:
                found.append(
                    Finding(
                        HINT,
                        host,
                        None,
                        f"{host}: volume group {name} is full ({units.size(group['free'])} free): no "
                        "snapshot of a side that is given up, and no further replica",
                        f"`vgextend {name}`, or remove what nobody needs (`lvs {name}`)",
                    )
                )
    return found
