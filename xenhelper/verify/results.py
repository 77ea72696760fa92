"""What comparisons found, kept durably: /var/lib/xenhelper/verify/RESOURCE on both hosts.

The host that compared writes it and tells the other, so that a VM that moves takes its
turn with it. ``key=value`` lines as in every record; sizes and places in bytes.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

from xenhelper import alerts, insync, log, names, paths, statefile, units
from xenhelper.errors import PeerFailed, PeerUnreachable, Refused, XenhelperError

CLEAN, DIFFERS, PARTIAL, REPAIRED = "clean", "differs", "partial", "repaired"
STATES = (CLEAN, DIFFERS, PARTIAL, REPAIRED)
MAX_RANGES = 200


@dataclass(frozen=True)
class Result:
    """One resource's last comparison. ``position``: how far it came. ``whole_at``: when one
    last came to the end ('' never). ``more``: ranges beyond those that are kept."""

    resource: str
    vm: str
    state: str
    by: str
    since: str
    until: str
    size: int
    position: int
    differing: int
    ranges: tuple[tuple[int, int], ...] = ()
    more: int = 0
    whole_at: str = ""

    @property
    def differs(self) -> bool:
        """Whether something was found, at the end or on the way."""
        return self.differing > 0 and self.state != REPAIRED

    def public(self) -> dict[str, Any]:
        """For --json."""
        found = asdict(self)
        found["ranges"] = [{"start_bytes": start, "length_bytes": length} for start, length in self.ranges]
        found["more_ranges"] = found.pop("more")
        for old, new in (("size", "size_bytes"), ("position", "position_bytes")):
            found[new] = found.pop(old)
        found["differing_bytes"] = found.pop("differing")
        return found


def path(resource: str) -> str:
    """Where the result of ``resource`` is kept."""
    return f"{paths.STATE}/verify/{names.check_resource(resource)}"


def read(resource: str) -> Result | None:
    """The last result, None when there is none or it can't be read."""
    try:
        record = statefile.read(path(resource))
        return None if record is None else _from(record)
    except (XenhelperError, ValueError, KeyError):
        return None


def _from(record: dict[str, str]) -> Result:
    ranges = []
    for item in filter(None, record.get("ranges", "").split(",")):
        start, _, length = item.partition("+")
        ranges.append((int(start), int(length)))
    if record["state"] not in STATES:
        raise ValueError(record["state"])
    return Result(
        resource=names.check_resource(record["resource"]),
        vm=names.check_vm(record["vm"]),
        state=record["state"],
        by=record.get("by", ""),
        since=record.get("since", ""),
        until=record.get("until", ""),
        size=int(record.get("size", "0")),
        position=int(record.get("position", "0")),
        differing=int(record.get("differing", "0")),
        ranges=tuple(ranges),
        more=int(record.get("more", "0")),
        whole_at=record.get("whole_at", ""),
    )


def to_record(result: Result) -> dict[str, str]:
    """As it stands in the file and travels to the peer."""
    kept = result.ranges[:MAX_RANGES]
    record = {key: str(value) for key, value in asdict(result).items() if key != "ranges"}
    record["more"] = str(result.more + len(result.ranges) - len(kept))
    record["ranges"] = ",".join(f"{start}+{length}" for start, length in kept)
    return record


def write(result: Result) -> None:
    """Keep it on this host."""
    statefile.write(path(result.resource), to_record(result))
    if result.state in (CLEAN, REPAIRED):
        alerts.clear("verify", result.resource, f"{result.resource}: {tell(result)}")


def share(result: Result, peer: str) -> None:
    """Keep it on both hosts; the peer's copy is missing when it doesn't answer now."""
    from xenhelper.peer import client

    write(result)
    try:
        client.ask(peer, "verify-noted", {"result": to_record(result)}, timeout=10.0)
    except (PeerUnreachable, PeerFailed) as error:
        log.event("note", f"{result.resource}: {peer} wasn't told what verify found: {error}", log.WARNING)


def serve_noted(peer: str, args: dict[str, Any]) -> dict[str, Any]:
    """Verb ``verify-noted``: what ``peer`` found, comparing a resource that it shares with us."""
    record = {str(key): str(value) for key, value in args["result"].items()}
    try:
        result = _from(record)
    except (KeyError, ValueError) as error:
        raise Refused(f"verify: {peer}'s result makes no sense ({error})") from error
    ours = statefile.read(f"{paths.RESOURCES}/{result.resource}")
    if ours is None or ours.get("peer") != peer or ours.get("vm") != result.vm:
        raise Refused(f"{result.resource}: not a disk of {result.vm} shared with {peer}")
    if any(insync.seconds(when) is None for when in (result.since, result.until)):
        raise Refused(f"verify: {peer}'s result has no time")
    write(result)
    return {}


def now() -> str:
    """This moment, as it stands in records."""
    return insync.stamp(time.time())


def tell(result: Result) -> str:
    """In a phrase, for a person: what was found, and where."""
    if result.state == REPAIRED:
        return f"{amount(result.differing)} differed, repaired {result.until}"
    found = "both copies are the same"
    if result.differing:
        places = [f"{start}+{length}" for start, length in result.ranges[:5]]
        more = len(result.ranges) - len(places) + result.more
        where = ", ".join(places) + (f" and {more} more" if more else "")
        found = f"{amount(result.differing)} differ at byte {where}"
    if result.state == PARTIAL:
        share_done = 100 * result.position / result.size if result.size else 0
        return f"stopped at {share_done:.0f} %, until there {found}"
    return found


def amount(octets: int) -> str:
    """As people read it; small ones exactly."""
    return f"{octets} bytes" if octets < units.MIB else units.size(octets)
