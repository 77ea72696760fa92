"""The ends of resources on one host, and how drbdsetup's command line names them."""

from typing import Any

from tests.sim.end import End

SIZE_KIB = 65536  # of each device


def ends(host: Any) -> "list[End]":
    return [pair.ends[host.index] for pair in host.world.pairs.values()]


def by_minor(host: Any, minor: str) -> "End | None":
    return next((end for end in ends(host) if str(end.pair.minor) == minor), None)


def addresses(end: End) -> "tuple[str, str]":
    here, there = end.index + 1, 2 - end.index
    return f"ipv4:10.99.0.{here}:{end.pair.port}", f"ipv4:10.99.0.{there}:{end.pair.port}"
