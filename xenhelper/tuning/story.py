"""`xenhelper tune`: read the host, set what differs; and what `--show` shows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xenhelper import beneath, config, log
from xenhelper.errors import XenhelperError
from xenhelper.tuning import apply, blockdev, bootfiles, items, look, probes, publish, topology
from xenhelper.tuning.bootfiles import Advice
from xenhelper.tuning.items import Item
from xenhelper.tuning.publish import Guest


@dataclass(frozen=True)
class Volume:
    """A replicated disk's read-ahead for its guest, and what to give mkfs and tune2fs."""

    vm: str
    vdev: str
    resource: str
    read_ahead_kib: int
    why: str
    stride: int = 0
    stripe_width: int = 0

    def advice(self) -> str:
        """Commands for the guest, '' when there is nothing to align to."""
        if not self.stride:
            return ""
        geometry = f"-E stride={self.stride},stripe_width={self.stripe_width}"
        return f"mkfs.ext4 {geometry} /dev/{self.vdev}, or, where one is: tune2fs {geometry} /dev/{self.vdev}"


@dataclass(frozen=True)
class Shown:
    """Everything that `tune --show` shows. ``errors``: what couldn't be looked at."""

    items: tuple[Item, ...]
    volumes: tuple[Volume, ...]
    guests: tuple[Guest, ...]
    advices: tuple[Advice, ...]
    errors: tuple[str, ...]


def look_at_all() -> Shown:
    """Read only. Raises ConfigError; all else that fails is among the errors."""
    settings, records, known = config.load(), beneath.records(), blockdev.tables()
    found = items.decide(look.host(settings, records, known), settings.tuning)
    volumes = []
    for name, record in sorted(records.items()):
        geometry = blockdev.of(record.get("volume", ""), known)
        want = publish.wanted(record, settings, geometry)
        stride, width = topology.ext4(geometry.stripes) or (0, 0)
        volumes.append(
            Volume(record.get("vm", ""), record.get("vdev", ""), name, want.kib, want.why, stride, width)
        )
    errors: list[str] = []
    guests: list[Guest] = []
    try:
        guests = publish.guests(records)
    except XenhelperError as error:
        errors.append(f"guests: {error}")
    advices = bootfiles.decide(bootfiles.facts(), settings.tuning)
    return Shown(tuple(found), tuple(volumes), tuple(guests), tuple(advices), tuple(errors))


def tune(dry_run: bool = False) -> tuple[list[str], list[str]]:
    """Set everything of this host that differs: (what was, or would be, changed; what
    couldn't be), a line each. Each thing on its own. Raises ConfigError."""
    settings, records, known = config.load(), beneath.records(), blockdev.tables()
    found = items.decide(look.host(settings, records, known), settings.tuning)
    changed, failed = apply.apply(found, dry_run)

    def more(name: str, result: tuple[list[str], list[str]]) -> None:
        changed.extend(result[0])
        failed.extend(result[1])
        for line in result[0] if not dry_run else ():
            log.event("note", f"tune: {line}")
        for line in result[1] if not dry_run else ():
            log.event("failed", f"tune: {name}: {line}", log.WARNING)

    more("guests", publish.refresh(records, settings, known, dry_run))
    try:
        more("guests", (publish.publish(beneath.records(), dry_run), []))
    except XenhelperError as error:
        more("guests", ([], [f"guests: {error}"]))
    if not dry_run:
        try:
            apply.leave_for_udev(found)
            for record in records.values():
                probes.mark(record.get("volume", ""))
        except (OSError, XenhelperError) as error:
            more("udev", ([], [f"udev's values: {error}"]))
    return changed, failed


def as_json(shown: Shown, host: str) -> dict[str, Any]:
    """For programs: plain values, stable keys."""
    return {
        "host": host,
        "items": [
            {
                "name": item.name,
                "now": item.now,
                "wanted": item.wanted,
                "why": item.why,
                "how": item.how,
                "state": state(item),
                "trouble": item.trouble,
            }
            for item in shown.items
        ],
        "volumes": [asdict(volume) for volume in shown.volumes],
        "guests": [
            {
                "vm": guest.vm,
                "resource": guest.resource,
                "published_kib": _number(guest.published),
                "claimed_kib": _number(guest.claimed),
                "state": guest.state,
            }
            for guest in shown.guests
        ],
        "files": [asdict(advice) for advice in shown.advices],
        "errors": list(shown.errors),
    }


def state(item: Item) -> str:
    """``ok``, ``differs`` or ``trouble``."""
    return "trouble" if item.trouble else "differs" if item.steps else "ok"


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def text(shown: Shown) -> str:
    """For people: a table, then guests, file systems, and the files that only --write sets."""
    rows = [("what", "is", "should be", "why", "how")]
    for item in shown.items:
        mark = {"ok": "", "differs": " *", "trouble": " !"}[state(item)]
        rows.append((item.name + mark, item.now, item.wanted, item.trouble or item.why, item.how))
    lines = [*_table(rows), "", "* `xenhelper tune` sets it   ! see there"]
    if shown.volumes:
        lines += ["", "Guests' disks (read-ahead in KiB; what a guest has set is its own claim)"]
        running = {guest.resource: guest for guest in shown.guests}
        table = [("disk", "read-ahead", "in the guest", "why")]
        for volume in shown.volumes:
            guest = running.get(volume.resource)
            table.append(
                (
                    volume.resource,
                    str(volume.read_ahead_kib),
                    guest.state if guest else "not running",
                    volume.why,
                )
            )
        lines += _table(table)
    advice = [
        f"  {volume.vm} {volume.vdev}: {volume.advice()}" for volume in shown.volumes if volume.advice()
    ]
    if advice:
        lines += ["", "File systems in the guest", *advice]
    for found in shown.advices:
        done = "written; waits for" if found.written else "then" if found.after else ""
        lines += ["", f"{found.path}: {found.what}", *(f"    {line}" for line in found.text.split("\n"))]
        lines += [f"  {done} {found.after}".rstrip()] if found.after else []
        lines += ["  (not by --write)"] if found.kind == bootfiles.SHOW else []
    lines += ["", *shown.errors] if shown.errors else []
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
