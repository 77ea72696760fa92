"""One migration of each kind, watched in every way at once: its course, and what it costs both hosts.

A pass of its own: watching costs, and no figure of the table may hold that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.lab import demo_timeline as tl
from tests.lab import product, results
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.recording import Recording

from . import byhand, course, moves, usage
from .hooks import NotMeasured
from .usage import Costs, Group

FILE = Path("docs/performance-migration.json")
KEY = "profile"
OURS, THEIRS = "xenhelper", "block-drbd"
# what xl leaves to be done when it is back is part of the migration
_AFTER = 5.0


@dataclass(frozen=True)
class Side:
    """One kind of migration: its course, and what it cost each host, by name."""

    timeline: tl.Timeline
    source: str
    target: str
    costs: Mapping[str, Costs]


@dataclass(frozen=True)
class Profile:
    """Both sides, by ``OURS`` and ``THEIRS``."""

    sides: Mapping[str, Side]
    commit: str
    at: str


def run(lab: Lab) -> Profile:
    """Both go to bob first, unwatched, so that everything was used once on either host."""
    at = time.strftime("%Y-%m-%d", time.gmtime())
    real = moves.prepare(lab)
    usage.install(lab)
    kinds = {OURS: ("web1", "xl"), THEIRS: (byhand.VM, real)}
    for vm, xl in kinds.values():
        moves.quiet(lab, vm)
        product.migrate(lab.alice, "bob", vm, xl)
        Guest(lab.bob, vm).wait_progress(120)
    sides = {}
    for side, (vm, xl) in kinds.items():
        names = moves.OURS if side == OURS else byhand.RESOURCES
        sides[side] = _watched(lab, side, vm, xl, names)
    return Profile(sides, results.commit(), at)


def _watched(lab: Lab, side: str, vm: str, xl: str, resources: Sequence[str]) -> Side:
    source, target = lab.bob, lab.alice
    always = all(product.net(host, name).two_primaries for host in lab.hosts for name in resources)
    if always != (side == THEIRS):
        raise NotMeasured(f"{vm}: two Primaries are {'' if always else 'not '}allowed before its migration")
    minors = [product.minor(target, name) for name in resources]
    moves.quiet(lab, vm)
    with Recording(lab, minors) as recording, course.DomainEvents(lab) as events:
        with usage.Meter(lab) as meter:
            start = time.monotonic()
            product.migrate(source, target.name, vm, xl)
            end = time.monotonic()
            time.sleep(_AFTER)
        Guest(target, vm).wait_progress(120)
        settled = time.monotonic()
    if side == OURS:
        product.assert_steady(lab, list(resources), target)
    found, happened = meter.read(), events.read()
    hosts = [
        course.Evidence(seen, happened[seen.host], found[seen.host][0].tasks) for seen in recording.seen()
    ]
    move = course.Move(vm, source.name, target.name, start, end, settled)
    line = course.timeline(f"{side}: from {source.name} to {target.name}", hosts, move, always)
    return Side(line, source.name, target.name, {name: costs for name, (_, costs) in found.items()})


def keep(profile: Profile, path: Path = FILE) -> None:
    """Write it whole."""
    path.write_text(json.dumps(_rounded(asdict(profile)), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    """Milliseconds are all that a look at another machine's clock is good for."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def load(path: Path = FILE) -> Profile | None:
    """The last one; None where none was ever taken."""
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    sides = {
        name: Side(
            tl.from_json(json.dumps(side["timeline"])),
            side["source"],
            side["target"],
            {
                host: Costs(
                    **cost | {"groups": {key: Group(**group) for key, group in cost["groups"].items()}}
                )
                for host, cost in side["costs"].items()
            },
        )
        for name, side in data["sides"].items()
    }
    return Profile(sides, data["commit"], data["at"])
