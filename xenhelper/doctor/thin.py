"""Thin pools that hold replicated disks: room, and what they hand out."""

from xenhelper import pools
from xenhelper.doctor.finding import ERROR, WARNING, Finding
from xenhelper.doctor.pair import Pair


def check(pair: Pair) -> list[Finding]:
    """Findings of both hosts."""
    found = []
    for facts in pair.both:
        host = facts.host
        for name, pool in sorted(facts.pools.items()):
            bad = pools.trouble(host, name, pool)
            if bad is not None:
                found.append(Finding(ERROR if bad[0] else WARNING, host, None, *bad[1:]))
            if not pool["zeroes"]:
                found.append(
                    Finding(
                        WARNING,
                        host,
                        None,
                        f"{host}: thin pool {name} doesn't zero new blocks: where no guest ever wrote, both "
                        "copies may differ",
                        f"`lvchange --zero y {name}`",
                    )
                )
    return found
