"""What people and fate do in one schedule, generated from a seed."""

import random as randomlib
from typing import Any

from tests.sim.world import HOSTS

# seconds to wait, what, its argument
Step = tuple[float, str, Any]

FAULTS = (
    "cut",
    "cut-management",
    "cut-both",
    "slow",
    "slow-disk",
    "kill",
    "kill-xl",
    "kill-xl-at-add",
    "lose-ssh-at-add",
    "power-off",
    "takeover",
    "permit",
    "halt",
)


def generate(seed: int) -> "tuple[dict[str, int], list[Step]]":
    """(VMs with their number of disks, steps) for ``seed``."""
    r = randomlib.Random(seed * 2 + 1)
    vms = {"web1": 2 if r.random() < 0.3 else 1}
    steps: "list[Step]" = [(0.5 + r.random() * 3, "create", "alice" if r.random() < 0.9 else "bob")]
    kinds = (
        ["migrate"] * 10 + ["migrate-past"] * 3 + ["shutdown", "reboot", "create", "double-create"]
        + ["cold-move"] * 2 + ["cut"] * 4 + ["heal"] * 2 + ["cut-management"] * 2 + ["heal-management"]
        + ["slow"] * 3 + ["fast"] + ["slow-disk", "cut-both"] + ["kill"] * 7
        + ["kill-xl"] * 2 + ["power-off"] * 2 + ["power-on"] * 2 + ["halt"]
        + ["reconcile"] + ["takeover"]
    )  # fmt: skip
    if seed % 8 == 1:
        # (which of them is told by the seed alone, so that those in KEPT stay what they are)
        dies = "lose-ssh-at-add" if seed % 32 in (1, 25) else "kill-xl-at-add"
        return {"web1": 2}, steps + _close_calls(r, dies)
    if seed % 32 == 14:
        return vms, steps + _returns(r)
    quiet = r.random() < 0.1
    if r.random() < 0.35:
        return vms, steps + _moves(r)
    for _ in range(r.randint(2, 9)):
        kind = r.choice(kinds)
        if quiet and kind in FAULTS:
            continue
        wait = r.random() ** 2 * r.choice((0.5, 4.0, 15.0))
        argument: Any = None
        if kind == "takeover":
            # the host dies, somebody takes over what ran there, and it comes back
            here, there = r.sample(HOSTS, 2)
            steps += [(wait, "power-off", there), (12 + r.random() * 10, "takeover", here)]
            steps.append((5 + r.random() * 40, r.choice(("power-on", "reboot", "shutdown")), there))
            continue
        if kind in ("create", "power-off", "power-on", "halt", "reconcile", "takeover"):
            argument = r.choice(HOSTS)
        elif kind == "kill":
            what = r.choice(
                ("", "", "xl migrate", "block add", "block remove", "serve", "reconcile", "fence")
            )
            argument = (int(r.random() ** 2 * 120) + 1, what)
        elif kind in ("migrate", "migrate-past"):
            # usually something happens while it runs
            steps.append((wait, kind, None))
            if r.random() < 0.6 and not quiet:
                fault = r.choice(
                    (
                        "cut",
                        "cut",
                        "cut-management",
                        "cut-both",
                        "kill",
                        "kill",
                        "kill",
                        "power-off",
                        "kill-xl",
                        "slow",
                    )
                )
                fate: Any = None
                if fault == "power-off":
                    fate = r.choice(HOSTS)
                elif fault == "kill":
                    what = r.choice(("", "xl migrate", "block add", "block remove", "serve"))
                    fate = (int(r.random() ** 2 * 100) + 1, what)
                steps.append((r.random() * r.choice((1.0, 4.0, 10.0)), fault, fate))
                if r.random() < 0.5:
                    undo = {"cut": "heal", "cut-management": "heal-management"}.get(fault)
                    if undo:
                        steps.append((r.random() * 8, undo, None))
                    elif fault == "cut-both":
                        steps.append((r.random() * 25, "create", r.choice(HOSTS)))
            continue
        steps.append((wait, kind, argument))
    return vms, steps


def _moves(r: randomlib.Random) -> "list[Step]":
    """Migrations and cold moves under load, each with its own trouble."""
    steps: "list[Step]" = [(5.0, "heal", None)]
    if r.random() < 0.6:
        steps.append((0.0, "slow", None))
    if r.random() < 0.25:
        steps.append((0.0, "slow-disk", None))
    for _ in range(r.randint(1, 3)):
        kind = r.choice(("migrate", "migrate", "migrate", "migrate-past", "migrate-past", "cold-move"))
        steps.append((r.random() * 3, kind, None))
        if r.random() < 0.45:
            fault = r.choice(
                ("cut", "cut", "cut-both", "kill", "kill", "kill-xl", "power-off", "cut-management")
            )
            argument: Any = None
            if fault == "power-off":
                argument = r.choice(HOSTS)
            elif fault == "kill":
                argument = (int(r.random() * 60) + 1, r.choice(("", "xl migrate", "block", "serve")))
            steps.append((r.random() * 7, fault, argument))
            if fault == "cut-both":
                steps.append((4 + r.random() * 25, "create", r.choice(HOSTS)))
        steps.append(
            (6.0 + r.random() * 10, r.choice(("heal", "heal-management", "power-on")), r.choice(HOSTS))
        )
    return steps


def _close_calls(r: randomlib.Random, dies: str) -> "list[Step]":
    """What only a fault in the right second shows: a link that dies before what a host has
    sent while it stepped down has arrived; a receiving xl that dies as it starts the block
    scripts, or the ssh between both xl, so that the guest goes on while they still ask for
    its disks."""
    steps: "list[Step]" = [(3.0, "slow", None)]
    for _ in range(r.randint(1, 3)):
        if r.random() < 0.4:
            steps.append((r.random() * 3, "cold-move", None))
            steps.append((r.random() ** 2 * 1.5, "cut", None))
        else:
            steps.append((r.random() * 3, r.choice(("migrate", "migrate-past", "migrate-past")), None))
            steps.append((0.0, dies, None))
        steps.append((6.0 + r.random() * 10, "heal", r.choice(HOSTS)))
    return steps


def _returns(r: randomlib.Random) -> "list[Step]":
    """A host comes back before anybody has used what a takeover permitted without it; for how
    long, and by which path, is chance."""
    steps: "list[Step]" = [
        (4.0 + r.random() * 5, "power-off", "alice"),
        (14 + r.random() * 8, "permit", "bob"),
    ]
    if r.random() < 0.4:
        steps.append((r.random() * 3, r.choice(("cut", "cut-management")), None))
    steps.append((r.random() * 5, "power-on", "alice"))
    for _ in range(r.randint(1, 2)):
        steps.append(
            (1.0 + r.random() * 6, r.choice(("cut-both", "cut-both", "cut", "cut-management")), None)
        )
        if r.random() < 0.5:
            steps.append((r.random() * 8, "create", "alice"))
        steps.append((r.random() * 20, "create", "bob"))
        if r.random() < 0.5:
            steps.append((r.random() * 10, r.choice(("heal", "heal-management")), None))
    return steps


# what can't happen to VMs of libvirt, or is the same as something else there
NOT_LIBVIRT = ("kill-xl", "kill-xl-at-add", "lose-ssh-at-add", "migrate-past")


def schedule(seed: int, libvirt: bool = False) -> "tuple[dict[str, int], list[Step]]":
    """The same, for VMs of libvirt without what can't happen to them."""
    vms, steps = generate(seed)
    return vms, [step for step in steps if step[1] not in NOT_LIBVIRT] if libvirt else steps
