"""What tuning has to say to ``xenhelper doctor``."""

import os

from xenhelper import xendomains
from xenhelper.doctor.finding import ERROR, HINT, WARNING, Finding
from xenhelper.errors import XenhelperError
from xenhelper.run import run
from xenhelper.tuning import bootfiles, story
from xenhelper.tuning.publish import Guest
from xenhelper.tuning.story import Shown

UNIT = "xenhelper-tune.service"


def collect() -> list[Finding]:
    """Look at this host's tuning. Raises ConfigError; changes nothing."""
    return judge(story.look_at_all(), os.uname().nodename, _unit_state())


def _unit_state() -> str:
    try:
        return run(["systemctl", "is-enabled", UNIT], timeout=15, ok=None).stdout.strip()
    except XenhelperError:
        return ""


def judge(shown: Shown, host: str, unit: str = "enabled") -> list[Finding]:
    """Findings from what was read. Pure."""
    found = [Finding(WARNING, host, None, error, "see `xenhelper tune --show`") for error in shown.errors]
    if unit not in ("enabled", ""):
        what = f"{UNIT} is {unit}: nothing is tuned at boot"
        found.append(Finding(WARNING, host, None, what, f"systemctl enable {UNIT}"))
    for item in shown.items:
        if item.trouble:
            what, _, do = item.trouble.partition("; ")
            found.append(
                Finding(WARNING, host, None, f"{item.name}: {what}", do or "see `xenhelper tune --show`")
            )
        elif item.steps:
            what = f"{item.name} is {item.now} instead of {item.wanted} ({item.why})"
            found.append(Finding(WARNING, host, None, what, "xenhelper tune"))
    for advice in shown.advices:
        if advice.path == xendomains.PATH:
            continue  # doctor's own
        if advice.written:
            found.append(
                Finding(HINT, host, None, f"{advice.path} is written but not in force", advice.after)
            )
            continue
        by_hand = f"put `{advice.text}` into {advice.path}".replace("\n", " ").replace("\t", " ")
        do = by_hand if advice.kind == bootfiles.SHOW else "xenhelper tune --write"
        if advice.after:
            do += f", {advice.after}" if advice.after.startswith("or ") else f", then {advice.after}"
        severity = {"error": ERROR, "warning": WARNING}.get(advice.severity, HINT)
        found.append(Finding(severity, host, None, advice.what, do))
    return found + _guests(shown.guests, host)


def _guests(guests: "tuple[Guest, ...]", host: str) -> list[Finding]:
    found = []
    for vm in sorted({guest.vm for guest in guests}):
        states = {guest.state for guest in guests if guest.vm == vm}
        if "unknown" in states:
            what = f"{vm}: no read-ahead is published for its disks: it was started before there was one"
            found.append(Finding(HINT, host, vm, what, "xenhelper tune"))
        elif states == {"published"}:
            what = f"{vm} doesn't say that it uses the read-ahead published for it: sequential reads crawl"
            do = f"install xenhelper-guest in it, or, when it is off, `xenhelper guest-install {vm}`"
            found.append(Finding(HINT, host, vm, what, do))
    return found
