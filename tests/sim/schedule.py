"""Schedules: what people and fate do to two hosts, generated from a seed, run, checked.

A schedule is a list of steps (seconds to wait, what, argument). Its world's own chance
comes from the same seed, so a schedule with steps left out can be run again to find the
shortest that still fails.
"""

from tests.sim import generate
from tests.sim.generate import Step
from tests.sim.playing import Run


def run_seed(seed: int, trace: bool = False, libvirt: bool = False) -> Run:
    """Generate and run the schedule of ``seed``; see Run.failed."""
    run = Run(seed, *generate.schedule(seed, libvirt), trace, libvirt)
    run.run()
    return run


def shrink(seed: int, promise: str, libvirt: bool = False) -> "list[Step]":
    """The steps that are needed for ``seed`` to break that promise still."""
    vms, steps = generate.schedule(seed, libvirt)
    at = len(steps) - 1
    while at >= 0:
        fewer = steps[:at] + steps[at + 1 :]
        run = Run(seed, vms, fewer, libvirt=libvirt)
        run.run()
        if run.failed is not None and run.failed.promise == promise:
            steps = fewer
        at -= 1
    return steps
