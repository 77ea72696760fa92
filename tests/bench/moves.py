"""Migrations in turns: web1 by plain xl with xenhelper, hand by plain xl with block-drbd."""

from __future__ import annotations

import json
import time

from tests.lab import measure, product
from tests.lab.guest import Guest
from tests.lab.host import Host
from tests.lab.lab import Lab

from . import byhand
from .rows import Samples
from .unspoilt import unspoilt

TURNS = 5
OURS = ["web1-xvda", "web1-xvdb"]
ROWS = ("downtime", "both-primary", "allowed", "protocol-c", "migrate", "add-destination")
_CALLS = "/run/bench-calls"
# what libxl starts in a pass of its own, so that no other figure holds its cost
_TIMED = f"""#!/bin/bash
begun=$EPOCHREALTIME
"$0.real" "$@"
status=$?
ended=$EPOCHREALTIME
name=$(xenstore-read "/local/domain/$(xenstore-read "$XENBUS_PATH/frontend-id")/name" 2>/dev/null)
echo "$1 $name $((${{ended/./}} - ${{begun/./}})) $status" >> {_CALLS}
exit $status
"""


def prepare(lab: Lab) -> str:
    """web1 and hand run on alice and write; Xen's own xl."""
    lab.reset("vm")
    byhand.build(lab)
    real = product.real_xl(lab.alice)
    lab.alice.run(f"{real} create {byhand.CONFIG}", timeout=200)
    Guest(lab.alice, byhand.VM).wait_writing(disks=len(byhand.DISKS))
    return real


def run(lab: Lab, turns: int = TURNS) -> dict[str, Samples]:
    """Rows of a migration. Both guests write all the time at the same rate, but the one that
    isn't moved holds still. A turn that the emulator's fault spoils is taken again, and the
    turns before it hold."""
    real = prepare(lab)
    found = {key: Samples() for key in ROWS}
    for _ in range(turns):
        turn = unspoilt(lab, lambda: _turn(lab, real), lambda: prepare(lab))
        for key, samples in turn.items():
            found[key].ours += samples.ours
            found[key].theirs += samples.theirs
    _time_scripts(lab)
    for _ in range(2):
        calls = unspoilt(lab, lambda: _timed(lab, real), lambda: (prepare(lab), _time_scripts(lab)))
        found["add-destination"].ours += calls.ours
        found["add-destination"].theirs += calls.theirs
    return found


def _direction(lab: Lab) -> tuple[Host, Host]:
    """From where both guests are to the other host."""
    alice, bob = lab.hosts
    return (alice, bob) if Guest(alice, "web1").domid() is not None else (bob, alice)


def _turn(lab: Lab, real: str) -> dict[str, Samples]:
    found = {key: Samples() for key in ROWS}
    source, target = _direction(lab)
    _ours(lab, source, target, found)
    _theirs(lab, source, target, real, found)
    return found


def _time_scripts(lab: Lab) -> None:
    for host in lab.hosts:
        for name in ("block-xenhelper", "block-drbd"):
            path = f"/etc/xen/scripts/{name}"
            host.run(f"mv {path} {path}.real")
            host.write(path, _TIMED)
            host.run(f"chmod 755 {path}")


def _timed(lab: Lab, real: str) -> Samples:
    """Both guests moved once, with the scripts' calls timed."""
    found = Samples()
    source, target = _direction(lab)
    for vm, xl, side in (("web1", "xl", found.ours), (byhand.VM, real, found.theirs)):
        target.run(f"rm -f {_CALLS}")
        quiet(lab, vm)
        product.migrate(source, target.name, vm, xl)
        side += _adds(target.read(_CALLS))
    return found


def _adds(text: str) -> list[float]:
    calls = [line.split() for line in text.splitlines()]
    return [int(c[2]) / 1e6 for c in calls if c[0] == "add" and c[1].endswith("--incoming") and c[3] == "0"]


def quiet(lab: Lab, vm: str) -> None:
    """``vm``, which is looked at, writes; the other one holds still, wherever it runs."""
    other = byhand.VM if vm == "web1" else "web1"
    for name, command in ((other, "pause"), (vm, "resume")):
        guests = [Guest(host, name) for host in lab.hosts]
        next(guest for guest in guests if guest.domid() is not None).send(command)
    time.sleep(3)


def _measured(
    lab: Lab, source: Host, target: Host, vm: str, xl: str, minors: list[int]
) -> tuple[float, list[measure.Migration]]:
    quiet(lab, vm)
    with measure.Sampler(target, minors) as sampler:
        began = time.monotonic()
        product.migrate(source, target.name, vm, xl)
        seconds = time.monotonic() - began
        Guest(target, vm).wait_progress(120)
    return seconds, list(sampler.results().values())


def _worst(values: list[float | None]) -> list[float]:
    """Of several disks the worst; nothing where the samples were too thin."""
    seen = [value for value in values if value is not None]
    return [max(seen)] if seen else []


def _ours(lab: Lab, source: Host, target: Host, found: dict[str, Samples]) -> None:
    minors = [product.minor(target, name) for name in OURS]
    since = source.out("date +%s.%N")
    seconds, seen = _measured(lab, source, target, "web1", "xl", minors)
    product.assert_steady(lab, OURS, target)
    events = source.run(
        f"journalctl -q -t xenhelper -o json --since @{since} "
        "--output-fields=XENHELPER_EVENT,XENHELPER_RESOURCE,__REALTIME_TIMESTAMP"
    ).out
    found["downtime"].ours += _worst([one.downtime for one in seen])
    found["both-primary"].ours += _worst([one.both_primary for one in seen])
    found["protocol-c"].ours += _worst([one.protocol_c for one in seen])
    found["allowed"].ours += allowed(events)
    found["migrate"].ours.append(seconds)
    found["allowed"].theirs.append(seconds)
    found["protocol-c"].theirs.append(seconds)


def _theirs(lab: Lab, source: Host, target: Host, real: str, found: dict[str, Samples]) -> None:
    seconds, seen = _measured(lab, source, target, byhand.VM, real, byhand.MINORS)
    found["downtime"].theirs += _worst([one.downtime for one in seen])
    found["both-primary"].theirs += _worst([one.both_primary for one in seen])
    found["migrate"].theirs.append(seconds)


def allowed(journal: str) -> list[float]:
    """For how long two Primaries were allowed, by the source's own entries: of several disks
    the longest, from its grant to its closing."""
    granted: dict[str, float] = {}
    spans = []
    for line in journal.splitlines():
        entry = json.loads(line)
        resource, at = entry.get("XENHELPER_RESOURCE", ""), int(entry["__REALTIME_TIMESTAMP"]) / 1e6
        if entry.get("XENHELPER_EVENT") == "window-granted":
            granted.setdefault(resource, at)  # granted once more while it holds, it holds since the first
        elif entry.get("XENHELPER_EVENT") == "window-closed" and resource in granted:
            spans.append(at - granted.pop(resource))
    return [max(spans)] if spans else []
